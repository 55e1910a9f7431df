"""Problems of HumanEval's form: one JSON object per line, maybe compressed.

Source: Chen et al., arXiv 2107.03374; file HumanEval.jsonl.gz of github.com/openai/human-eval.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from mindformers_codellama.errors import CodeLlamaError, DataError, raise_all

TaskT = TypeVar("TaskT")
ProblemT = TypeVar("ProblemT", bound="Problem")
HUMANEVAL = "give HumanEval.jsonl.gz of github.com/openai/human-eval."


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One task. `check(function)`, defined by `test`, raises when the function is wrong."""

    task_id: str
    prompt: str
    """Imports, helpers, and the function's head and docstring."""
    entry_point: str
    """Name of the function."""
    test: str
    canonical_solution: str = ""
    """What follows the prompt in a right answer."""

    def source(self, completion: str) -> str:
        """The program of a sample."""
        return self.prompt + completion

    @property
    def helpers(self) -> str:
        """What the tests may use beside the function; the dataset's own words."""
        return self.prompt


@dataclass(frozen=True)
class Problems(Generic[TaskT]):
    """A file of tasks, in its order: `Problem`, or what another suite asks."""

    path: Path
    sha256: str
    """Of the lines, uncompressed."""
    tasks: dict[str, TaskT]

    def first(self, count: int | None) -> Problems[TaskT]:
        """The first tasks alone; None is all."""
        return Problems(self.path, self.sha256, dict(list(self.tasks.items())[:count]))


def read_problems(path: Path) -> Problems[Problem]:
    """Read HumanEval's file, or one of its form; see `read_kind`."""
    return read_kind(path, Problem, fix=HUMANEVAL)


def read_kind(path: Path, kind: type[ProblemT], *, fix: str) -> Problems[ProblemT]:
    """Read a file; `.gz` or plain.

    Args:
        path: JSON lines.
        kind: of the problems; its fields are read, those with a default may be missing.
        fix: which file is meant.

    Raises:
        DataError: missing, unreadable, empty, twice the same task, fields that are missing or no text; the first ten of them.
    """
    data = read_bytes(path, fix=fix)
    parses = ((where, partial(parse_problem, kind, where, line)) for where, line in json_lines(path, data))
    return gathered(path, data, parses, fix=fix)


def gathered(path: Path, data: bytes, parses: Iterable[tuple[str, Callable[[], ProblemT]]], *, fix: str) -> Problems[ProblemT]:
    """Problems by name.

    Args:
        path: of the file.
        data: its bytes, uncompressed.
        parses: the place of each problem, and what gives it or raises DataError.
        fix: which file is meant.

    Raises:
        DataError: no problem, twice the same task, or what `parses` raise; the first ten of them.
    """
    tasks: dict[str, ProblemT] = {}
    findings: list[CodeLlamaError] = []
    for where, parse in parses:
        try:
            problem = parse()
            if problem.task_id in tasks:
                raise DataError(where, f"task {problem.task_id} is there already.")
            tasks[problem.task_id] = problem
        except DataError as error:
            findings.append(error)
    raise_all(findings[:10])
    if not tasks:
        raise DataError(path, "holds no problem.", fix=fix)
    return Problems(path, hashlib.sha256(data).hexdigest(), tasks)


def json_lines(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """(`file:line`, line) of every line that is not blank."""
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", line


def read_bytes(path: Path, *, fix: str = HUMANEVAL) -> bytes:
    """A file's bytes, unpacked when it is compressed.

    Args:
        path: of the file.
        fix: said when it cannot be read.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(path, f"is a damaged gzip file: {error}.", fix="copy it again.") from error
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}.", fix=fix) from error


def json_object(where: str, line: str) -> dict[str, Any]:
    """A line as an object.

    Raises:
        DataError: it is none.
    """
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(where, f"is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise DataError(where, "is no JSON object.")
    return record


def parse_problem(kind: type[ProblemT], where: str, line: str) -> ProblemT:
    """A line as a problem.

    Raises:
        DataError: fields that are missing or no text; a problem of another suite.
    """
    record = json_object(where, line)
    names = [field.name for field in fields(kind)]
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    missing = [name for name in needed if name not in record]
    if missing:
        raise DataError(where, f"has no {', '.join(missing)}.", fix=f"a problem has {', '.join(needed)}.")
    if "suffix" in record and "suffix" not in names:
        problem = "has a suffix: it is a task of filling in the middle, not of writing on."
        raise DataError(where, problem, fix="give HumanEval's own file here, and this one to codellama eval humaneval-infilling.")
    values = {name: record[name] for name in names if name in record}
    wrong = [name for name, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise DataError(where, f"{', '.join(wrong)} must be text.")
    if not values["entry_point"].isidentifier():
        raise DataError(where, f"entry_point {values['entry_point']!r} is no name of a function.")
    return kind(**values)
