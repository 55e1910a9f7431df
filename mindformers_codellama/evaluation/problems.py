"""Problems of HumanEval's form: one JSON object per line, maybe compressed.

Source: Chen et al., arXiv 2107.03374; file HumanEval.jsonl.gz of github.com/openai/human-eval.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Generic, TypeVar

from mindformers_codellama.errors import CodeLlamaError, DataError, raise_all

TaskT = TypeVar("TaskT")


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
    """Read a file; `.gz` or plain.

    Raises:
        DataError: missing, unreadable, empty, twice the same task, fields that are missing or no text; all of them at once.
    """
    data = read_bytes(path)
    tasks: dict[str, Problem] = {}
    findings: list[CodeLlamaError] = []
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if not line.strip():
            continue
        try:
            problem = _problem(line, f"{path}:{number}")
            if problem.task_id in tasks:
                raise DataError(f"{path}:{number}", f"task {problem.task_id} is there already.")
            tasks[problem.task_id] = problem
        except DataError as error:
            findings.append(error)
    raise_all(findings[:10])
    if not tasks:
        raise DataError(path, "holds no problem.", fix="give HumanEval.jsonl.gz of github.com/openai/human-eval.")
    return Problems(path, hashlib.sha256(data).hexdigest(), tasks)


def read_bytes(path: Path) -> bytes:
    """A file's bytes, unpacked when it is compressed.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(path, f"is a damaged gzip file: {error}.", fix="copy it again.") from error
    except OSError as error:
        raise DataError(
            path, f"cannot be read: {error.strerror}.", fix="give HumanEval.jsonl.gz of github.com/openai/human-eval."
        ) from error


def _problem(line: str, where: str) -> Problem:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(where, f"is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise DataError(where, "is no JSON object.")
    names = [field.name for field in fields(Problem)]
    missing = [name for name in names[:4] if name not in record]
    if missing:
        raise DataError(where, f"has no {', '.join(missing)}.", fix=f"a problem has {', '.join(names[:4])}.")
    values = {name: record[name] for name in names if name in record}
    wrong = [name for name, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise DataError(where, f"{', '.join(wrong)} must be text.")
    if not values["entry_point"].isidentifier():
        raise DataError(where, f"entry_point {values['entry_point']!r} is no name of a function.")
    return Problem(**values)
