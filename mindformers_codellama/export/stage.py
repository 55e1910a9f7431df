"""The folder an export is written to before anything has its final name, and who may write there."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mindformers_codellama.checkpoint.files import write_problem
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.parallel.agreement import together
from mindformers_codellama.parallel.comm import Comm

STAGE = ".export.tmp"
DOING = "making the export directory"


@contextmanager
def staged(folder: Path, comm: Comm, *, check: Callable[[], object]) -> Iterator[None]:
    """The stage of an export is there inside, empty at first, and gone afterwards; so is the folder when it stayed empty.

    Meanwhile nobody else exports into the folder: rank 0 holds a lock on it, which ends with its process and leaves no file.

    Args:
        folder: the export directory.
        comm: this process among the ranks; all of them call this.
        check: raises when the folder is not as it should be; asked under the lock.

    Raises:
        CheckpointError: not writable, another process is exporting into it, or as `check`.
    """
    was_there = folder.exists()
    others, stage = None if comm.is_alone else comm, folder / STAGE
    lock = together(others, lambda: lock_folder(folder) if comm.rank == 0 else None, doing=DOING)
    try:
        together(others, lambda: _empty(stage, check) if comm.rank == 0 else None, doing=DOING)
        yield
    finally:
        # on every rank: machines may have disks of their own
        shutil.rmtree(stage, ignore_errors=True)
        if not was_there:
            with suppress(OSError):
                folder.rmdir()  # only if it is empty
        if lock is not None:
            os.close(lock)


def lock_folder(folder: Path) -> int:
    """Make a folder and take the lock of exporting into it; its open descriptor.

    Raises:
        CheckpointError: it cannot be made, or another process has the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise write_problem(folder, error) from error
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(opened)
        raise CheckpointError(folder, "another process is exporting into it.", fix="wait for it, or give another --output.") from error
    except OSError:
        pass  # a disk without locks
    return opened


def _empty(stage: Path, check: Callable[[], object]) -> None:
    """An empty stage, whatever an interrupted export left behind."""
    check()
    try:
        if stage.exists():
            shutil.rmtree(stage)
        stage.mkdir()
    except OSError as error:
        raise write_problem(stage.parent, error) from error
