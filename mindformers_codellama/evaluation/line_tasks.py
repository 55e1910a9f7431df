"""Lines of source files to fill in, or parts of them: which, and the files they are from.

A line is chosen by the SHA-256 of seed, file name and line number, so the choice depends neither on other files nor on the version
of Python, and more lines of a file include the fewer. Likewise the words a part begins and ends with.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mindformers_codellama.data.stdlib_source import NAME as STDLIB
from mindformers_codellama.data.text_source import find_text_files
from mindformers_codellama.errors import DataError
from mindformers_codellama.evaluation.problems import Problems
from mindformers_codellama.text.holes import Hole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceFile:
    """A file whose lines are taken out."""

    name: str
    """Below the folder it was found in, with slashes."""
    text: str


@dataclass(frozen=True, kw_only=True)
class LineTask:
    """One line taken out of a file, or a part of one: the cursor stands where it began, the answer is what stood there."""

    file: SourceFile
    number: int
    """Of the line, from 1."""
    start: int
    """First character taken out: the line's, or that of a word in it."""
    end: int
    """Behind its last; what follows in the line, and the line end, are part of the suffix."""

    @property
    def task_id(self) -> str:
        """`file:line`."""
        return f"{self.file.name}:{self.number}"

    @property
    def hole(self) -> Hole:
        """The cursor."""
        return Hole(self.file.text[: self.start], self.file.text[self.end :])

    @property
    def line(self) -> str:
        """What belongs there."""
        return self.file.text[self.start : self.end]


def read_source_files(sources: Sequence[str], *, split: str = "held-out", suffix: str = ".py") -> list[SourceFile]:
    """Files of source code.

    Args:
        sources: files, folders, globs or `python-stdlib`.
        split: `train` or `held-out`, which part of `python-stdlib`.
        suffix: ending of the files taken from a folder; files and globs are taken as they are.

    Raises:
        DataError: a source without files, a named file that is no UTF-8 text, or two files of one name.
    """
    found: dict[str, SourceFile] = {}
    for source in sources:
        base = Path(sysconfig.get_path("stdlib")) if source == STDLIB else Path(source)
        for path in find_text_files([source], split=split):
            if base.is_dir() and path.suffix != suffix:
                continue
            name = path.relative_to(base).as_posix() if base.is_dir() else path.name
            text = _text(path, named=not base.is_dir())
            if text is None:
                continue
            if name in found:
                raise DataError(path, f"is the second file named {name}.", fix="give the folder above both as one source.")
            found[name] = SourceFile(name, text)
    if not found:
        raise DataError(", ".join(sources), f"holds no {suffix} file.", fix=f"give files, a folder, a quoted glob, or {STDLIB}.")
    return list(found.values())


def _text(path: Path, *, named: bool) -> str | None:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        if named:
            raise DataError(path, f"is not UTF-8 text (byte {error.start}).") from error
        logger.warning("%s is not UTF-8 text and left out.", path)
        return None
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}.") from error


TAKEN = ("line", "rest", "span")
"""The whole line with its indentation; what stands behind a place in it where a word begins or ends; or between two such places."""


def line_tasks(files: Iterable[SourceFile], *, per_file: int, seed: int = 0, taken: str = "line") -> Problems[LineTask]:
    """Lines to fill in, in the order of files and lines; blank ones are never chosen.

    Args:
        files: of different names.
        per_file: lines of each file, at most all that are not blank.
        seed: another one chooses other lines and places in them.
        taken: one of `TAKEN`; a line of one word has no rest and no span, and is not chosen.

    Raises:
        DataError: every line of every file is blank, or has too few words for what is wanted.
    """
    tasks: dict[str, LineTask] = {}
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.text}\0".encode())
        found = _lines(file) if taken == "line" else _parts(_lines(file), seed, whole_rest=taken == "rest")
        ranked = sorted(found, key=lambda task: _lot(seed, task))
        chosen = sorted(ranked[:per_file], key=lambda task: task.number)
        tasks.update({task.task_id: task for task in chosen})
    if not tasks:
        problem = "every line is blank." if taken == "line" else f"every line is blank or has too few words for a {taken}."
        raise DataError("files", problem, fix="give source files with text.")
    return Problems(Path("source files"), digest.hexdigest(), tasks)


def _lines(file: SourceFile) -> Iterable[LineTask]:
    start = 0
    for number, line in enumerate(file.text.split("\n"), 1):
        if line.strip():
            yield LineTask(file=file, number=number, start=start, end=start + len(line.removesuffix("\r")))
        start += len(line) + 1


def _parts(lines: Iterable[LineTask], seed: int, *, whole_rest: bool) -> Iterable[LineTask]:
    """The lines from the beginning or end of a word on, to their end or to a later such place; text stands on every side."""
    for task in lines:
        borders = [match.start() for match in re.finditer(r"\b", task.line)]
        places = [at for at in borders if task.line[:at].strip() and task.line[at:].strip()]
        starts = [at for at in places if whole_rest or task.line[at : places[-1]].strip()]
        if not starts:
            continue
        lot = _lot(seed, task)
        start = starts[int.from_bytes(lot[:8], "big") % len(starts)]
        if whole_rest:
            yield replace(task, start=task.start + start)
            continue
        ends = [at for at in places if task.line[start:at].strip()]
        yield replace(task, start=task.start + start, end=task.start + ends[int.from_bytes(lot[8:16], "big") % len(ends)])


def _lot(seed: int, task: LineTask) -> bytes:
    return hashlib.sha256(f"{seed}\0{task.task_id}".encode()).digest()
