"""Text for pretraining: which files, and their contents in blocks of bounded size."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mindformers_codellama.data import stdlib_source
from mindformers_codellama.data.records import open_text, read_records
from mindformers_codellama.errors import DataError

BLOCK = 1 << 19
"""Characters of one block; a longer document is cut at a line break."""

_TEXT_KEYS = ("text", "content")
_RECORD_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "build", "dist"})


class Block(NamedTuple):
    """A document or a part of one."""

    where: str
    """File, or file and record."""
    text: str
    first: bool
    last: bool
    problem: str = ""
    """Why a document cannot be used; then `text` is empty."""


def find_text_files(sources: Sequence[str], *, split: str = "train", held_out: float = 0.05, max_bytes: int | None = None) -> list[Path]:
    """Files named by `sources`, sorted within each, none twice.

    Args:
        sources: files, folders (searched for files, hidden ones left out), globs (`**` allowed) or `python-stdlib`.
        split: `train` or `held-out`, which part of `python-stdlib`.
        held_out: fraction of its files that are held out.
        max_bytes: upper bound of the training part of `python-stdlib`.

    Raises:
        DataError: a source that names no file.
    """
    if max_bytes is not None and max_bytes < 1:
        raise DataError("--max-bytes", f"got {max_bytes}, must be at least 1.")
    found: dict[Path, None] = {}
    for source in sources:
        if source == stdlib_source.NAME:
            library = stdlib_source.collect_stdlib(held_out=held_out, max_bytes=max_bytes)
            paths = list(library.train if split == "train" else library.held_out)
        elif Path(source).is_dir():
            paths = [path for path in sorted(Path(source).rglob("*")) if path.is_file() and _visible(path.relative_to(source))]
        elif Path(source).is_file():
            paths = [Path(source)]
        else:
            paths = [Path(name) for name in sorted(glob.glob(source, recursive=True)) if Path(name).is_file()]
        if not paths:
            raise DataError(source, "no file found.", fix=f"give a file, a folder, a quoted glob, or {stdlib_source.NAME}.")
        found.update(dict.fromkeys(paths))
    return list(found)


def _visible(inside: Path) -> bool:
    return not any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in inside.parts)


def read_blocks(path: Path, note: Callable[[int], object] = lambda count: None) -> Iterator[Block]:
    """The documents of one file: each record of a JSON or JSON Lines file with `text` or `content`, else the file itself."""
    if path.name.endswith(_RECORD_SUFFIXES):
        for record in read_records(path, note):
            text = next((record.value[key] for key in _TEXT_KEYS if key in record.value), None) if isinstance(record.value, dict) else None
            if isinstance(text, str) and text.strip():
                yield from _blocks(str(record.place), iter([text]))
            else:
                yield Block(str(record.place), "", True, True, record.problem or "no text under the key 'text' or 'content'.")
        return
    try:
        yield from _blocks(str(path), read_pieces(path, note))
    except DataError as error:
        yield Block(str(path), "", True, True, error.problem)


def read_pieces(path: Path, note: Callable[[int], object] = lambda count: None) -> Iterator[str]:
    """Text of a file in pieces of BLOCK characters.

    Raises:
        DataError: a missing file, or bytes that are not UTF-8.
    """
    with open_text(path, note) as file:
        try:
            while piece := file.read(BLOCK):
                yield piece
        except (UnicodeDecodeError, EOFError) as error:
            raise DataError(path, "is not UTF-8 text.", fix="leave it out, or convert it to UTF-8.") from error


def _blocks(where: str, pieces: Iterator[str]) -> Iterator[Block]:
    """Join pieces and cut them before a line break, so that every block but the first begins with one."""
    rest, first = "", True
    for piece in pieces:
        rest += piece
        while len(rest) > 2 * BLOCK:
            cut = rest.rfind("\n", 1, BLOCK)
            cut = cut if cut > 0 else BLOCK
            yield Block(where, rest[:cut], first, False)
            rest, first = rest[cut:], False
    if rest.strip() or not first:
        yield Block(where, rest, first, True)
