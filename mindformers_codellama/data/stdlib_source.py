"""Real code that every machine has: the source files of Python's own standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mindformers_codellama.errors import DataError, EnvironmentFault

NAME = "python-stdlib"
"""What a person writes instead of a path."""

_LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages", "dist-packages", "__pycache__"}
)
_LARGEST_FILE = 300_000
"""Bytes; beyond this are generated tables and almost no module a person wrote."""


class StdlibFiles(NamedTuple):
    """The two parts of the library, each sorted by path."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def collect_stdlib(*, held_out: float = 0.05, max_bytes: int | None = None, root: Path | None = None) -> StdlibFiles:
    """The library's `.py` files in a fixed order, split file by file.

    Which part a file belongs to depends on its name alone, so a file held out once stays held out on every machine.

    Args:
        held_out: fraction of files kept for evaluation, in [0, 1).
        max_bytes: stop adding training files when their sizes exceed this; files are then taken in an order that mixes
            the packages. None takes all.
        root: folder of the library; None asks the running Python.

    Raises:
        DataError: a fraction out of range.
        EnvironmentFault: the library has no source files here (an embedded or zipped Python).
    """
    if not 0 <= held_out < 1:
        raise DataError("held-out", f"got {held_out}, must be at least 0 and below 1.", fix="use 0.05.")
    folder = root or Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(folder.rglob("*.py")) if _wanted(path, folder)]
    if not files:
        raise EnvironmentFault(folder, "holds no Python source files.", fix="give --text FOLDER with source code of your own.")
    apart = [path for path in files if _share(path, folder) < held_out]
    train = [path for path in files if _share(path, folder) >= held_out]
    if max_bytes is not None:
        mixed = sorted(train, key=lambda path: _share(path, folder))
        train = sorted(_within(mixed, max_bytes))
    return StdlibFiles(tuple(train), tuple(apart))


def _wanted(path: Path, root: Path) -> bool:
    inside = path.relative_to(root).parts
    return not _LEFT_OUT.intersection(inside) and path.is_file() and 0 < path.stat().st_size <= _LARGEST_FILE


def _share(path: Path, root: Path) -> float:
    """A number in [0, 1) that depends on the path inside the library alone."""
    digest = hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _within(files: list[Path], max_bytes: int) -> Iterator[Path]:
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > max_bytes:
            return
        yield path
