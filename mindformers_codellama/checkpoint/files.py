"""Outputs that appear whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mindformers_codellama.errors import CheckpointError

TEMPORARY_SUFFIX = ".tmp"
"""Names with this suffix are unfinished outputs; readers ignore them."""


@dataclass(frozen=True)
class FileRecord:
    """A finished file; `sha256` is empty when it was not asked for."""

    name: str
    size: int
    sha256: str


class Output:
    """A file being written, with its size and, when asked for, its hash."""

    def __init__(self, file: BinaryIO, *, hashed: bool = False, on_bytes: Callable[[int], object] | None = None) -> None:
        self._file = file
        self._hash = hashlib.sha256() if hashed else None
        self._on_bytes = on_bytes
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append header bytes."""
        self._file.write(data)
        self.size += len(data)
        if self._hash is not None:
            self._hash.update(data)

    def write_array(self, values: np.ndarray) -> memoryview:
        """Append the elements of a contiguous array without copying; returns them as bytes."""
        data = values.reshape(-1).view(np.uint8).data
        self._file.write(data)
        self.size += data.nbytes
        if self._hash is not None:
            self._hash.update(data)
        if self._on_bytes is not None:
            self._on_bytes(data.nbytes)
        return data

    def record(self, name: str) -> FileRecord:
        """What was written so far."""
        return FileRecord(name, self.size, self._hash.hexdigest() if self._hash is not None else "")


def refuse_existing(path: Path, *, force: bool) -> None:
    """Refuse to replace a file, or to write a file where a directory is.

    Raises:
        CheckpointError: naming `path`.
    """
    if path.is_dir():
        raise CheckpointError(path, "is a directory; the output is a file.", fix="give a file name.")
    if path.exists() and not force:
        raise CheckpointError(path, "exists already.", fix="give another name, or --force to replace it.")


def refuse_existing_directory(path: Path, *, force: bool) -> None:
    """Refuse to write a directory over a file or into a directory that has something in it.

    Raises:
        CheckpointError: naming `path`.
    """
    if path.exists() and not path.is_dir():
        raise CheckpointError(path, "is a file; the output is a directory.", fix="give a directory name.")
    if path.is_dir() and not force and any(not entry.name.endswith(TEMPORARY_SUFFIX) for entry in path.iterdir()):
        raise CheckpointError(path, "exists already and is not empty.", fix="give another name, or --force to replace its weights.")


@contextmanager
def atomic_file(path: Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success it is synced and renamed to `path`, else removed.

    Raises:
        CheckpointError: `path` exists and `force` is False; the disk is full or not writable.
    """
    refuse_existing(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise write_problem(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def staged_directory(path: Path, *, force: bool = False, replaces: Sequence[str] = ()) -> Iterator[Path]:
    """A new directory beside `path`; on success it becomes `path`, else it is removed.

    Into a directory that is there already (staged inside it, for it may be a disk of its own) the files are moved
    one by one in order of name, so that an index comes after the files it names. When it has something in it,
    `force` is needed; then the new files replace those of the same name, files that match the patterns of
    `replaces` and are not written anew are deleted (weights of the older checkpoint would shadow the new ones),
    and everything else stays.

    Raises:
        CheckpointError: `path` is taken; the disk is full or not writable. Errors inside the stage name `path`.
    """
    refuse_existing_directory(path, force=force)
    folder = path if path.is_dir() else path.parent
    stage = folder / f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}"
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        yield stage
        sync_directory(stage)
        if path.is_dir():
            _merge(stage, path, replaces)
        else:
            os.replace(stage, path)
        sync_directory(path.parent)
    except OSError as error:
        raise write_problem(path, error) from error
    except CheckpointError as error:
        if not error.where.startswith(str(stage)):
            raise
        raise CheckpointError(path, error.problem, fix=error.fix) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _merge(stage: Path, path: Path, replaces: Sequence[str]) -> None:
    new = {file.name for file in stage.iterdir()}
    for old in [file for pattern in replaces for file in path.glob(pattern)]:
        if old.name not in new:
            old.unlink()
    for name in sorted(new):
        os.replace(stage / name, path / name)
    sync_directory(path)


def require_space(path: Path, needed: int) -> None:
    """Refuse early when the disk of `path` cannot hold `needed` bytes.

    Raises:
        CheckpointError: with both numbers.
    """
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        problem = f"needs {size_text(needed)}, the disk of {folder} has {size_text(free)} free."
        raise CheckpointError(path, problem, fix="free some space, or write elsewhere.")


def size_text(count: int) -> str:
    """A number of bytes with a unit that leaves it readable."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"


def write_problem(path: Path, error: OSError) -> CheckpointError:
    """The error a person reads for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(path, "the disk is full; nothing was left behind.", fix="free some space, or write elsewhere.")
    return CheckpointError(path, f"cannot be written: {error.strerror or error}.")


def sync_directory(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
