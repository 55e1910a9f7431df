"""MBPP: short Python tasks told in a sentence and by three tests.

Sources: Austin et al., arXiv 2108.07732; mbpp.jsonl, sanitized-mbpp.json and the splits in README.md of
github.com/google-research/google-research/tree/master/mbpp.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import DataError
from mindformers_codellama.evaluation.mbpp_tests import TestsError, judged_tests
from mindformers_codellama.evaluation.problems import Problem, Problems, gathered, json_lines, json_object, read_bytes

FIX = "give mbpp.jsonl or sanitized-mbpp.json of github.com/google-research/google-research, folder mbpp."
SPLITS: Mapping[str, tuple[int, int]] = {
    "prompt": (1, 10),
    "test": (11, 510),
    "validation": (511, 600),
    "train": (601, 974),
    "all": (0, 1 << 30),
}
"""Task numbers of each part, both ends included."""
EXAMPLES = (2, 3, 4)
"""Tasks solved before the question, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class MbppProblem(Problem):
    """One task. The completion is the whole program."""

    number: int
    """`task_id` of the file; the name is `MBPP/number`."""
    text: str
    """What is to be written."""
    shown_tests: tuple[str, ...]
    """Of the prompt; those that are run are among them."""
    tail: str = ""
    """What runs behind the program, beside it: tests that need the program's own classes."""

    def source(self, completion: str) -> str:
        """The program of a sample."""
        return f"{completion}\n{self.tail}"

    @property
    def helpers(self) -> str:
        """Nothing: the tests bring what they need."""
        return ""


def read_mbpp(path: Path, *, challenge: bool = False) -> Problems[MbppProblem]:
    """Read mbpp.jsonl (a task per line) or sanitized-mbpp.json (one list); `.gz` or plain.

    Args:
        path: of the file.
        challenge: run `challenge_test_list` too.

    Raises:
        DataError: missing, unreadable, empty, twice the same task, fields that are missing or of another kind, tests that are no
            Python or call no function of the code; the first ten of them.
    """
    data = read_bytes(path, fix=FIX)
    parses = ((where, partial(_problem, where, line, challenge)) for where, line in _records(path, data))
    found = gathered(path, data, parses, fix=FIX)
    digest = hashlib.sha256(f"{found.sha256} {challenge}".encode()).hexdigest() if challenge else found.sha256
    return Problems(path, digest, found.tasks)


def split_of(problems: Problems[MbppProblem], split: str) -> Problems[MbppProblem]:
    """The tasks of one of `SPLITS`.

    Raises:
        DataError: there are none.
    """
    low, high = SPLITS[split]
    tasks = {name: task for name, task in problems.tasks.items() if low <= task.number <= high}
    if not tasks:
        raise DataError(problems.path, f"has no task of the split {split}: numbers {low} to {high}.", fix="give another --split.")
    return Problems(problems.path, problems.sha256, tasks)


def examples(problems: Problems[MbppProblem], shots: int) -> list[MbppProblem]:
    """The first `shots` of `EXAMPLES`.

    Raises:
        DataError: they are not in the file.
    """
    wanted = [f"MBPP/{number}" for number in EXAMPLES[:shots]]
    missing = [name.removeprefix("MBPP/") for name in wanted if name not in problems.tasks]
    if missing:
        problem = f"has no task {', '.join(missing)}: they are the examples of the prompt."
        raise DataError(problems.path, problem, fix="give the whole file, or --shots 0.")
    return [problems.tasks[name] for name in wanted]


def _records(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """(place, JSON of a task)."""
    if not data.lstrip().startswith(b"["):
        yield from json_lines(path, data)
        return
    try:
        entries = json.loads(data)
    except ValueError as error:
        raise DataError(path, f"is not JSON: {error}.", fix=FIX) from error
    for number, entry in enumerate(entries, 1):
        yield f"{path}: task {number} of the list", json.dumps(entry)


def _problem(where: str, line: str, challenge: bool) -> MbppProblem:
    record = json_object(where, line)
    text_key = "prompt" if "prompt" in record and "text" not in record else "text"
    missing = [name for name in ("task_id", text_key, "code", "test_list") if name not in record]
    if missing:
        fix = "a task has task_id, text (or prompt), code, test_list; test_setup_code, test_imports, challenge_test_list if any."
        raise DataError(where, f"has no {', '.join(missing)}.", fix=fix)
    number = record["task_id"]
    if not isinstance(number, int) or isinstance(number, bool):
        raise DataError(where, f"task_id must be a whole number, got {number!r}.")
    texts = {name: _text(where, record, name) for name in (text_key, "code", "test_setup_code")}
    lists = {name: _texts(where, record, name) for name in ("test_imports", "test_list", "challenge_test_list")}
    if not lists["test_list"]:
        raise DataError(where, "test_list is empty.")
    tests = (*lists["test_list"], *(lists["challenge_test_list"] if challenge else ()))
    try:
        judged = judged_tests(texts["code"], (*lists["test_imports"], texts["test_setup_code"]), tests)
    except TestsError as error:
        raise DataError(where, f"{error}.") from error
    return MbppProblem(
        task_id=f"MBPP/{number}",
        number=number,
        text=texts[text_key].strip(),
        shown_tests=lists["test_list"],
        prompt="",
        canonical_solution=texts["code"],
        entry_point=judged.entry_point,
        test=judged.test,
        tail=judged.tail,
    )


def _text(where: str, record: Mapping[str, Any], name: str) -> str:
    value = record.get(name, "")
    if not isinstance(value, str):
        raise DataError(where, f"{name} must be text, got {type(value).__name__}.")
    return value.replace("\r\n", "\n")


def _texts(where: str, record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = record.get(name, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(where, f"{name} must be a list of texts.")
    return tuple(text.replace("\r\n", "\n").strip() for text in value)
