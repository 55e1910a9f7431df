"""What ranks print: to logs, and one rank's also to the terminal, byte by byte."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import tty
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from mindformers_codellama.cluster.launch_remarks import RemarkFilter, is_remark
from mindformers_codellama.errors import EnvironmentFault

DEFAULT_PATTERN = "rank_{rank}/mindformer.log"
"""MindFormers' name of a rank's log."""
UNFINISHED = 0.3
"""Seconds after which a line without an end is logged as well."""
_HELD_BYTES = 1 << 16
_TAIL_BYTES = 256 * 1024


@dataclass(frozen=True)
class Logs:
    """Where a job's logs go.

    Args:
        folder: of all of them.
        pattern: of one rank's below it; `{rank}` is its number.
    """

    folder: Path
    pattern: str = DEFAULT_PATTERN

    def of(self, rank: int | None) -> Path:
        """A rank's log; None is the scheduler's, beside them."""
        if rank is None:
            return self.folder / re.sub(r"[A-Za-z]*_?\{rank\}", "scheduler", self.pattern)
        return self.folder / self.pattern.replace("{rank}", str(rank))

    def open(self, rank: int | None, *, again: bool = False) -> int:
        """A file descriptor to write one with.

        Args:
            rank: whose; None is the scheduler's.
            again: go on behind what is there, for a restart.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        path = self.of(rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if again else os.O_TRUNC), 0o644)
        except OSError as error:
            fix = "name a folder that can be written with --log-dir (or LOG_MF_PATH)."
            raise EnvironmentFault(path, f"the log cannot be written: {error.strerror}.", fix=fix) from error


class LiveOutput:
    """Copies what one process prints to its log and to this program's own stdout and stderr.

    Where ours is a terminal the process gets one too (a pseudo-terminal in raw mode), so that its progress bars are
    drawn and arrive unchanged. A reader of ours that goes away ends the showing, not the logging. MindSpore's remarks
    are only logged.

    Args:
        log: file descriptor, closed by `close`.
        shows_all: show the remarks too.
    """

    def __init__(self, log: int, *, shows_all: bool = False) -> None:
        self._log, self._shows_all = log, shows_all
        self._threads: list[Thread] = []
        ends: dict[bool, tuple[int, int]] = {}
        targets: list[tuple[int, int]] = []
        for target in (1, 2):
            is_terminal = os.isatty(target)
            if not is_terminal or True not in ends:
                ends[is_terminal] = _terminal(target) if is_terminal else os.pipe()
                targets.append((ends[is_terminal][0], target))
            if target == 1:
                self.stdout = ends[is_terminal][1]
            else:
                self.stderr = ends[is_terminal][1]
        self._targets = targets

    def start(self) -> None:
        """Begin, once the process has been started and holds its ends."""
        for end in {self.stdout, self.stderr}:
            os.close(end)
        for source, target in self._targets:
            thread = Thread(target=self._copy, args=(source, target), daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self, seconds: float = 2.0) -> None:
        """Wait for what is still to be shown: the process and its children have ended."""
        for thread in self._threads:
            thread.join(seconds)
        if not any(thread.is_alive() for thread in self._threads):  # a terminal held by Ctrl-S keeps one waiting
            os.close(self._log)

    def _copy(self, source: int, target: int) -> None:
        """Bytes are shown as they come; the log gets what ends a line, so that stdout and stderr do not cut each other's texts.

        A text of several lines may come without its last line end, which Python's unbuffered `print` writes apart.
        """
        shows, unfinished, remarks = True, b"", RemarkFilter()
        while True:
            if (unfinished or remarks.holds) and not select.select([source], [], [], UNFINISHED)[0]:
                unfinished = self._record(unfinished)
                shows = shows and _show(target, remarks.end())
            try:
                data = os.read(source, 65536)
            except OSError:  # a pseudo-terminal says so when the last process has closed it
                data = b""
            if not data:
                self._record(unfinished)
                if shows:
                    _show(target, remarks.end())
                os.close(source)
                return
            unfinished += data
            if unfinished.endswith((b"\n", b"\r")) or len(unfinished) >= _HELD_BYTES:
                unfinished = self._record(unfinished)
            shows = shows and _show(target, data if self._shows_all else remarks.feed(data))

    def _record(self, data: bytes) -> bytes:
        """Write to the log; nothing is left. A full disk must not stop the process."""
        with contextlib.suppress(OSError):
            _write(self._log, data)
        return b""


def last_lines(path: Path, count: int = 20) -> list[str]:
    """The last lines of a log that say something: without MindSpore's remarks and empty lines, and of a bar its last state."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line for line in lines if line and not is_remark(line)][-count:]


def _terminal(like: int) -> tuple[int, int]:
    """(our end, the process's end) of a pseudo-terminal as wide as the terminal `like`."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with contextlib.suppress(OSError):
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, fcntl.ioctl(like, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0)))
    return ours, theirs


def _show(target: int, data: bytes) -> bool:
    """Whether somebody still reads."""
    try:
        _write(target, data)
    except OSError:
        return False
    return True


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]
