"""Mindrecord files on disk: which belong together, how many rows they hold, whether they are whole. No MindSpore here."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import DataError, raise_all

_NAME = re.compile(r"\.mindrecord\d*$")
_REWRITE = "prepare the data again with `codellama data prepare`."
_HEADER_LIMIT = 128 << 20
"""Largest header MindSpore writes."""


@dataclass(frozen=True)
class Header:
    """What a mindrecord file says about itself."""

    columns: tuple[str, ...]
    parts: tuple[str, ...]
    """File names of the whole set."""
    rows: int


def index_path(file: Path) -> Path:
    """The index beside a data file."""
    return file.with_name(file.name + ".db")


def count_rows(file: Path) -> int:
    """Rows of one data file, from its index.

    Raises:
        DataError: a missing or damaged index.
    """
    index = index_path(file)
    if not index.is_file():
        raise DataError(index, "is missing; a mindrecord file needs its index beside it.", fix="copy both files, names unchanged.")
    try:
        connection = sqlite3.connect(f"file:{os.fspath(index.absolute())}?mode=ro", uri=True)
        try:
            names = [row[0] for row in connection.execute("SELECT NAME FROM SHARD_NAME")]
            rows = int(connection.execute("SELECT COUNT(*) FROM INDEXES").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise DataError(index, f"is not a readable index ({error}).", fix=_REWRITE) from error
    if file.name not in names:
        raise DataError(
            file,
            f"was called {names[0] if names else '?'} when it was written; mindrecord files cannot be renamed.",
            fix=f"name it so again, or {_REWRITE}",
        )
    return rows


def join_parts(files: Sequence[Path]) -> None:
    """Make single files one set: each header then names all of them, so MindSpore opens all when it is given one.

    Args:
        files: complete single files in one folder, in order.
    """
    for number, file in enumerate(files):
        values = _header_values(file)
        values["shard_addresses"] = [other.name for other in files]
        values["shard_id"] = number
        for page in values["page"]:
            page["shard_id"] = number
        text = json.dumps(values, separators=(",", ":")).encode()
        assert len(text) + 8 <= values["header_size"], "the header has room for a thousand names"
        with file.open("r+b") as opened:
            opened.write(struct.pack("<Q", len(text)) + text)


def _header_values(file: Path) -> dict[str, Any]:
    """The JSON at the beginning of a data file: 8 bytes of length, then the text."""
    try:
        with file.open("rb") as opened:
            length = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))[0]
            text = opened.read(length) if 0 < length <= _HEADER_LIMIT else b""
    except OSError as error:
        raise DataError(file, f"cannot be read: {error.strerror}.", fix="check the path and its rights.") from error
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise DataError(file, "is not a mindrecord file, or its first bytes are damaged.", fix=_REWRITE)
    return values


def read_header(file: Path) -> Header:
    """Columns, parts and row count of a data file, after checking that it is complete.

    Raises:
        DataError: missing, unreadable, not a mindrecord file, cut short.
    """
    values = _header_values(file)
    size = file.stat().st_size
    try:
        header_size, page_size = int(values["header_size"]), int(values["page_size"])
        needed = max((header_size + page["page_id"] * page_size + page["page_size"] for page in values["page"] or ()), default=0)
        columns = tuple(values["schema"][0]["schema"])
        parts = tuple(Path(name).name for name in values["shard_addresses"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(file, "is not a mindrecord file, or its first bytes are damaged.", fix=_REWRITE) from error
    if size < needed:
        raise DataError(file, f"is cut short: {size} bytes of {needed}.", fix=f"copy it again, or {_REWRITE}")
    return Header(columns, parts, count_rows(file))


def find_mindrecords(paths: Iterable[Path]) -> list[Path]:
    """Every data file meant by `paths`: files, sets given by their common name, folders searched through, in sorted order.

    A part stands for its whole set, so all parts are read. Hidden folders hold unfinished output and are left out.

    Raises:
        DataError: nothing found, or parts that are missing, all of them named.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if _NAME.search(file.name) and not _hidden(file.relative_to(path))]
            if not files:
                raise DataError(path, "holds no *.mindrecord file.", fix="make one with `codellama data prepare`, or give the file itself.")
        elif path.is_file():
            files = [path]
        else:
            files = _parts_of_name(path)
        found.update(dict.fromkeys(files))
    missing: dict[Path, DataError] = {}
    for file in list(found):
        for name in read_header(file).parts:
            part = file.with_name(name)
            if not part.is_file() and part not in missing:
                problem = f"is missing: {file.name} belongs to a set that has this part."
                missing[part] = DataError(part, problem, fix="copy all parts and their .db files together.")
            found[part] = None
    raise_all(missing.values())
    return sorted(found)


def _parts_of_name(path: Path) -> list[Path]:
    """`x.mindrecord` that does not exist itself stands for `x.mindrecord0`, `x.mindrecord1`, ..."""
    folder = path.parent
    parts = [file for file in sorted(folder.glob(f"{path.name}*")) if file.name[len(path.name) :].isdecimal()] if folder.is_dir() else []
    if not parts:
        raise DataError(path, "no such file or folder.", fix="check data_loader.dataset_dir; make data with `codellama data prepare`.")
    return parts[:1]


def _hidden(inside: Path) -> bool:
    return any(part.startswith(".") for part in inside.parts[:-1])
