"""Write rows to mindrecord: all files appear under their names at once, or none does.

MindRecord keeps each file's own name inside it and in its index, so a finished file cannot be renamed. The files are
written under their final names in a temporary folder beside the target and moved out of it, manifest last.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_codellama.data.manifest import Manifest, manifest_path, manifest_text
from mindformers_codellama.data.mindrecord_files import count_rows, index_path, join_parts
from mindformers_codellama.data.parallel import batched
from mindformers_codellama.errors import DataError

ROWS_AT_ONCE = 512
"""Rows per part handed to MindSpore at once."""
_NEARLY_FULL = 64 << 20

logger = logging.getLogger(__name__)


def part_paths(path: Path, parts: int) -> list[Path]:
    """Data files of a set: the path itself, or `x.mindrecord0`, `x.mindrecord1`, ... as MindSpore names them."""
    width = len(str(parts - 1))
    return [path] if parts == 1 else [path.with_name(f"{path.name}{number:0{width}}") for number in range(parts)]


def refuse_existing(path: Path, parts: int, *, force: bool) -> None:
    """Raise DataError when any file of the set exists and `force` is False."""
    existing = [file for part in part_paths(path, parts) for file in (part, index_path(part)) if file.exists()]
    existing += reversed(_old_files(path))  # the manifest last: the data is what a person knows by name
    if existing and not force:
        raise DataError(existing[0], "exists already.", fix="write to another name, or give --force to replace it.")


def write_rows(
    path: Path,
    rows: Iterable[Mapping[str, np.ndarray]],
    *,
    columns: Sequence[str],
    description: str,
    parts: int = 1,
    force: bool = False,
    manifest: Callable[[Sequence[Path], int], Manifest] | None = None,
) -> int:
    """Write rows and their manifest; returns how many rows were written.

    Args:
        path: the file, or with several parts the name their numbers are put behind.
        rows: int32 `(row_length,)` per column; consumed once, a batch in memory at a time.
        columns: names in the order of the schema.
        description: the schema's name; MindFormers writes the dataset type here.
        parts: files the rows are dealt to in turn.
        force: replace an existing set.
        manifest: called with the data files and the row count after the last row.

    Raises:
        DataError: an existing set, no rows, fewer rows than parts, a full disk, a folder that may not be written.
    """
    refuse_existing(path, parts, force=force)
    with _explained(path):
        with _workplace(path) as folder:
            files = part_paths(folder / path.name, parts)
            total = _write(files, rows, columns, description)
            _check(path, files, total)
            if manifest is not None:
                manifest_path(folder / path.name).write_text(manifest_text(manifest(files, total)), encoding="utf-8")
            _publish(folder, path, files)
    return total


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A hidden folder beside the target, gone at the end; one that a killed run left is removed first.

    The folder is locked while it is used, and the system unlocks it when its process ends, however it ends.
    """
    hidden = f".{path.name}.unfinished-"
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{glob.escape(hidden)}*"):
        with suppress(OSError):  # in use by another run, or on a file system without locks
            os.close(_locked(left))
            shutil.rmtree(left)
            logger.info("removed %s, left by a run that was killed", left)
    folder = Path(tempfile.mkdtemp(prefix=hidden, dir=path.parent))
    handle = -1
    try:
        with suppress(OSError):
            handle = _locked(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle >= 0:
            os.close(handle)


def _locked(folder: Path) -> int:
    """Handle of a folder that no other process has locked; `OSError` when one has."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _write(files: Sequence[Path], rows: Iterable[Mapping[str, np.ndarray]], columns: Sequence[str], description: str) -> int:
    """Row i goes to part i modulo the number of parts; returns the number of rows.

    Each part has a writer of its own: one writer over all parts gives what is left of a batch to a part at random, so
    the order of rows would differ between runs.
    """
    from mindspore.mindrecord import FileWriter

    writers = [FileWriter(str(file)) for file in files]
    for writer in writers:
        writer.add_schema({column: {"type": "int32", "shape": [-1]} for column in columns}, description)
    parts, total = len(files), 0
    for batch in batched(rows, parts * ROWS_AT_ONCE):
        total += len(batch)
        items: list[dict[str, Any]] = [{column: row[column] for column in columns} for row in batch]
        for number, writer in enumerate(writers):
            if mine := items[number::parts]:
                writer.write_raw_data(mine)
    if total == 0:
        raise DataError(files[0].name, "no row was made: the dataset is empty.", fix="check the input.")
    if total < parts:
        raise DataError(files[0].name, f"has {total} rows for {parts} parts.", fix=f"ask for at most {total} parts.")
    for writer in writers:
        writer.commit()
    if parts > 1:
        join_parts(files)
    return total


def _check(path: Path, files: Sequence[Path], expected: int) -> None:
    """MindSpore leaves out rows it dislikes with a warning and may not notice a failed write; count what is on disk."""
    found = sum(count_rows(file) for file in files)
    if found != expected:
        raise DataError(path, f"{found} of {expected} rows arrived on disk.", fix="check the disk, then run the command again.")


def _publish(folder: Path, path: Path, files: Sequence[Path]) -> None:
    """Move the finished files to their place; the manifest goes away first and comes last."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    for old in _old_files(path):
        old.unlink(missing_ok=True)
    for file in files:
        for made in (index_path(file), file):
            os.replace(made, path.with_name(made.name))
    written = manifest_path(folder / path.name)
    if written.exists():
        os.replace(written, manifest_path(path))
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _old_files(path: Path) -> list[Path]:
    """Manifest and data of a set of any number of parts that stands at `path` now."""
    if not path.parent.is_dir():
        return []
    own = {path.name, f"{path.name}.db"}
    numbered = [
        file
        for file in sorted(path.parent.iterdir())
        if file.name in own or (file.name.startswith(path.name) and file.name[len(path.name) :].removesuffix(".db").isdecimal())
    ]
    manifest = manifest_path(path)
    return ([manifest] if manifest.exists() else []) + numbered


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what MindSpore and the system raise while writing into a DataError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        free = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.exists())).free
        if full or (not isinstance(error, OSError) and free < _NEARLY_FULL):
            raise DataError(
                path, f"the disk is full ({free >> 20} MB free).", fix="free space or write elsewhere; nothing was left behind."
            ) from error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip().split("\n")[0]
        raise DataError(path, f"cannot be written: {reason}.", fix="check that the folder exists and may be written.") from error
