"""No process of a job outlives its launcher, not even one that is killed.

Every process of a job carries a mark in its environment, which children inherit wherever they hide (own group, own
session). The guard is a small process that holds one end of a pipe: when the launcher is gone, the pipe ends and the
guard kills what carries the mark. This file is run by its path and imports the standard library alone.

Linux only: elsewhere there is no /proc, and nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

MARK = "CODELLAMA_LAUNCH"
"""Environment variable with the name of the job."""
PATIENCE = 5.0
"""Seconds until a process that SIGKILL does not end (waiting for a disk) is left to the system."""
PROC = Path("/proc")


def marked(mark: str) -> list[int]:
    """Processes that carry the mark; ended ones that nobody has waited for do not count."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def kill_marked(mark: str) -> None:
    """Kill every process that carries the mark, and what they start meanwhile."""
    until = time.monotonic() + PATIENCE
    while (found := marked(mark)) and time.monotonic() < until:
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


class Guard:
    """Watches over the job `mark` until `close`."""

    def __init__(self, mark: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        command = [sys.executable, "-I", "-S", __file__, mark]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=environment)  # noqa: S603

    def close(self) -> None:
        """End the guard; it looks a last time."""
        stdin = self._process.stdin
        assert stdin is not None, "was opened as a pipe"
        with contextlib.suppress(OSError):
            stdin.close()
        self._process.wait()


def watch(mark: str, pipe: BinaryIO) -> None:
    """Wait until the launcher is gone, then kill what is left; twice, for processes that were just being started."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    pipe.read()
    kill_marked(mark)
    time.sleep(0.2)
    kill_marked(mark)


if __name__ == "__main__":
    watch(sys.argv[1], sys.stdin.buffer)
