"""One process for each rank of a job: a second one would hang the others, or end them without a word."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mindformers_codellama.errors import ClusterError

POLL = 0.05
LOOKS = 0.5
"""Seconds in which a lock that is held may only be looked at by another rank."""


class Held:
    """The lock of this process."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def note(self, text: str) -> None:
        """Leave a word for the other ranks of the job."""
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n{text}\n")
        self._file.flush()

    def until_exit(self) -> None:
        """Hold it until this process has ended, not only until the context is left."""
        os.dup(self._file.fileno())  # a lock goes with the last descriptor of the file, and nobody closes this one


@contextmanager
def only_process(rank: int, job: str, *, folder: Path | None = None) -> Iterator[Held]:
    """While open, no other process of this machine and user is that rank of that job. The lock ends with the process.

    Args:
        rank: of this process.
        job: what tells jobs apart: the scheduler's address, the rank table, the shell that started the ranks.
        folder: of the locks; None is one in the system's folder of temporary files.

    Raises:
        ClusterError: another process is.
    """
    with lock_file(rank, job, folder).open("a+", encoding="utf-8") as file:
        if not _locked(file, LOOKS):
            file.seek(0)
            holder = file.readline().strip() or "another one"
            fix = "wait for it, or stop it; jobs beside each other need ports of their own (MS_SCHED_PORT)."
            raise ClusterError(f"rank {rank}", f"of the job {job} runs already: process {holder}.", fix=fix)

        held = Held(file)
        held.note("")
        yield held


def is_running(rank: int, job: str, *, folder: Path | None = None) -> bool:
    """Whether a process is that rank of that job."""
    with lock_file(rank, job, folder).open("a+", encoding="utf-8") as file:
        return not _locked(file, 0.0)


def note_of(rank: int, job: str, *, folder: Path | None = None) -> str:
    """What the process that is that rank has left; empty when there is no such process, or it has left nothing."""
    with lock_file(rank, job, folder).open("a+", encoding="utf-8") as file:
        if _locked(file, 0.0):
            return ""
        file.seek(0)
        return "".join(file.read().splitlines()[1:2])


def lock_file(rank: int, job: str, folder: Path | None = None) -> Path:
    """The file that stands for a rank of a job; its folder is made. It is never removed: a process may be about to lock it."""
    place = folder or Path(tempfile.gettempdir()) / f"codellama_ranks_{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place / f"{hashlib.sha256(job.encode()).hexdigest()[:16]}_rank_{rank}"


def _locked(file: TextIO, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > until:
                return False
            time.sleep(POLL)
        else:
            return True
