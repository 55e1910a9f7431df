"""Files of records: JSON arrays, JSON Lines, gzip of both, one record in memory at a time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

from mindformers_codellama.data.json_array import CHUNK, read_array
from mindformers_codellama.errors import DataError, raise_all

NAMED = 10
"""Bad records named in one message; with --skip-bad all are counted."""


class Place(NamedTuple):
    """Where a record stands, for messages."""

    file: str
    number: int
    """Record of this file, counted from 0, blank lines not counted."""
    line: int
    """Line of the file, counted from 1; 0 when the record is a whole file."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: record {self.number}" if self.line else self.file


class Record(NamedTuple):
    """One record as it stands in the file."""

    place: Place
    value: Any
    problem: str
    """Empty, or why the text of the record is not readable; then `value` is None."""


class Refused(NamedTuple):
    """A record that cannot be used."""

    where: str
    reason: str
    """Groups equal causes in the counts."""
    detail: str
    """Full sentence for the message."""


def raise_refused(refused: Sequence[Refused]) -> None:
    """Raise DataError for records that cannot be used, all at once; the last of NAMED says that there may be more.

    Raises:
        DataError: one; `Findings` when there are several.
    """
    fix, more = "correct it, or leave it out with --skip-bad.", f" Reading stopped after {NAMED}; later ones are not judged."
    raise_all(DataError(item.where, item.detail, fix=fix + more * (number == NAMED)) for number, item in enumerate(refused, 1))


def unreadable(path: Path, error: OSError) -> DataError:
    """What a person can do about a file that cannot be opened."""
    if isinstance(error, IsADirectoryError):
        return DataError(path, "is a folder, a file is needed.", fix="give one file, or --text FOLDER for plain text.")
    if isinstance(error, FileNotFoundError):
        return DataError(path, "no such file.", fix="check the path; it is taken as written, relative to the current folder.")
    return DataError(path, f"cannot be read: {error.strerror}.", fix="check the file's rights.")


class _Metered(io.FileIO):
    """A file that reports how many bytes were read."""

    def __init__(self, path: Path, note: Callable[[int], object]) -> None:
        super().__init__(path, "r")
        self.note = note

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer` and report the count."""
        count = super().readinto(buffer)
        self.note(count)
        return count


def open_text(path: Path, note: Callable[[int], object] = lambda count: None) -> TextIO:
    """Open UTF-8 text, a byte order mark dropped, `.gz` unpacked.

    Args:
        path: the file.
        note: called with the number of bytes of each read, for progress.

    Raises:
        DataError: when the file is missing or may not be read.
    """
    try:
        raw = io.BufferedReader(_Metered(path, note), CHUNK)
    except OSError as error:
        raise unreadable(path, error) from error
    return io.TextIOWrapper(cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw, encoding="utf-8-sig")


def read_records(path: Path, note: Callable[[int], object] = lambda count: None) -> Iterator[Record]:
    """Yield the records of a JSON array (first character `[`) or of a JSON Lines file.

    `note` is called as in `open_text`.

    Raises:
        DataError: missing file, empty file, text that is not UTF-8, a damaged gzip file.
    """
    with open_text(path, note) as file:
        try:
            first = _first_character(file)
            if not first:
                raise DataError(path, "the file is empty.", fix="give a JSON array or one JSON object per line.")
            if first not in "[{":
                raise DataError(
                    path, f"begins with {first!r}; a JSON array or JSON Lines is needed.", fix="for plain text use --text instead."
                )
            yield from (_array_records if first == "[" else _line_records)(path, file)
        except UnicodeDecodeError as error:
            raise DataError(path, f"is not UTF-8 text: {error.reason}.", fix="convert the file to UTF-8.") from error
        except (EOFError, gzip.BadGzipFile) as error:
            raise DataError(path, "is a damaged gzip file.", fix="copy or download it again.") from error


def _first_character(file: TextIO) -> str:
    """First character that is not white space; the file is rewound."""
    while chunk := file.read(4096):
        if chunk.strip():
            file.seek(0)
            return chunk.lstrip()[0]
    return ""


def _array_records(path: Path, file: TextIO) -> Iterator[Record]:
    for index, element in enumerate(read_array(file)):
        yield Record(Place(str(path), index, element.line), element.value, element.problem)


def _line_records(path: Path, file: TextIO) -> Iterator[Record]:
    index = 0
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        place = Place(str(path), index, line)
        try:
            yield Record(place, json.loads(text, strict=False), "")
        except json.JSONDecodeError as error:
            hint = " Each line must hold one whole JSON object; an indented file must be one JSON array." if index == 0 else ""
            yield Record(place, None, f"not JSON: {error.msg} (column {error.colno}).{hint}")
        except RecursionError:
            yield Record(place, None, "not readable: it is nested too deeply.")
        index += 1


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces.

    Raises:
        DataError: when the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def total_bytes(paths: Iterable[Path]) -> int:
    """Sum of the files' sizes on disk, for progress; a missing file counts 0 and is reported when it is opened."""
    return sum(path.stat().st_size for path in paths if path.is_file())
