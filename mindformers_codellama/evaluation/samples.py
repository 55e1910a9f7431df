"""Samples and verdicts as lines of JSON, in the official tool's words; a file that a killed run left is gone on with.

Sources: human-eval's README (`{"task_id": ..., "completion": ...}`) and `evaluation.py` (`..._results.jsonl`).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from mindformers_codellama.errors import CodeLlamaError, DataError, raise_all
from mindformers_codellama.evaluation.problems import Problems, read_bytes


@dataclass(frozen=True, order=True)
class Place:
    """Which sample of which task."""

    task_id: str
    number: int
    """From 0, in the order of the file."""


class LineFile:
    """A file of JSON lines that grows; each line is on the disk when `write` returns. A half line at its end is cut off first.

    Args:
        path: made when it is not there.

    Raises:
        DataError: it cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("ab+")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it ends
            whole = _whole_lines(path)
            if whole < path.stat().st_size:
                self._file.truncate(whole)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(path, "is being written by another run.", fix="wait for it, or give another --output.") from error
        except OSError as error:
            raise DataError(path, f"cannot be written: {error.strerror}.") from error

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append records.

        Raises:
            DataError: the disk is full.
        """
        self.write_lines(json.dumps(record) for record in records)

    def write_lines(self, lines: Iterable[str]) -> None:
        """Append lines that have no line end yet.

        Raises:
            DataError: the disk is full.
        """
        try:
            self._file.write("".join(line + "\n" for line in lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DataError(self._path, f"cannot be written: {error.strerror}.", fix="free space; what is there is kept.") from error


def _whole_lines(path: Path) -> int:
    """Bytes up to the last line end."""
    return path.read_bytes().rfind(b"\n") + 1


def results_path(samples: Path) -> Path:
    """Where the verdicts of a file of samples go, as the official tool names it."""
    return samples.with_name(samples.name + "_results.jsonl")


def read_samples(path: Path, problems: Problems[Any], *, every: Problems[Any] | None = None, partial: bool = False) -> dict[Place, str]:
    """Completions of the problems' tasks; see `read_answers`."""
    return {place: record["completion"] for place, record in read_answers(path, problems, every=every, partial=partial).items()}


def read_answers(
    path: Path, problems: Problems[Any], *, every: Problems[Any] | None = None, partial: bool = False
) -> dict[Place, dict[str, Any]]:
    """Samples of the problems' tasks, in the order of the file: `task_id`, `completion`, and what else was written with them.

    Args:
        path: `.jsonl`, maybe compressed.
        problems: tasks wanted.
        every: all tasks there are; samples of those that are not wanted are left out. None is `problems`.
        partial: take tasks without samples and a half last line, as a killed run leaves them.

    Raises:
        DataError: unreadable, lines that are no samples, unknown tasks, tasks without a sample.
    """
    known = (every or problems).tasks
    data = read_bytes(path, fix="give a file of samples, as --generate-only writes it.")
    if partial:
        data = data[: data.rfind(b"\n") + 1]
    found: dict[Place, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    findings: list[CodeLlamaError] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = _sample(line, f"{path}:{number}")
            if record["task_id"] not in known:
                problem = f"task {record['task_id']!r} is not in {problems.path.name}."
                fix = "give what the samples were made for: --data, or --files, --pick-seed and at least as many --lines."
                raise DataError(f"{path}:{number}", problem, fix=fix)
        except DataError as error:
            findings.append(error)
            continue
        task = record["task_id"]
        if task in problems.tasks:
            found[Place(task, counts[task])] = record
            counts[task] += 1
    raise_all(findings[:10])
    missing = [task for task in problems.tasks if not counts[task]]
    if missing and not partial:
        problem = f"has no sample of {len(missing)} of {len(problems.tasks)} tasks, the first is {missing[0]}."
        raise DataError(path, problem, fix="add them, or score the first tasks alone with --limit N.")
    return found


def _sample(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(where, f"is not JSON: {error}.") from error
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in ("task_id", "completion")):
        raise DataError(where, "is no sample.", fix='a sample is {"task_id": "HumanEval/0", "completion": "    return 1"}.')
    return record


def read_verdicts(path: Path, samples: Mapping[Place, str], conditions: Mapping[str, Any]) -> dict[Place, str]:
    """Verdicts of an earlier run that still hold: of these very completions, under the same conditions.

    Args:
        path: written by `verdict_record`; lines that are something else do not count.
        samples: completions now.
        conditions: sandbox and limits now.
    """
    found: dict[Place, str] = {}
    for line in read_bytes(path).split(b"\n") if path.exists() else ():
        if (verdict := _verdict_of(line)) and _holds(verdict, samples, conditions):
            found[verdict[0]] = str(verdict[1]["result"])
    return found


def drop_stale_verdicts(path: Path, samples: Mapping[Place, str], conditions: Mapping[str, Any]) -> None:
    """Take the verdicts out of a file that no longer hold, so that whoever reads it finds those of the samples alone.

    Args:
        path: as for `read_verdicts`; lines that are no verdicts of ours stay.
        samples: all completions now.
        conditions: sandbox and limits now.

    Raises:
        DataError: it cannot be written, or another process is writing it.
    """
    from mindformers_codellama.checkpoint.files import atomic_file

    if not path.exists():
        return
    with LineFile(path):
        lines = read_bytes(path).splitlines(keepends=True)
        kept = [line for line in lines if not (verdict := _verdict_of(line)) or _holds(verdict, samples, conditions)]
        if len(kept) < len(lines):
            with atomic_file(path, force=True) as file:
                file.write(b"".join(kept))


def _verdict_of(line: bytes) -> tuple[Place, dict[str, Any]] | None:
    """A line of `verdict_record`; None for any other."""
    try:
        record = json.loads(line)
        place, named = Place(record["task_id"], record["number"]), {"completion", "conditions", "result"} <= set(record)
        hash(place)
    except (ValueError, KeyError, TypeError):
        return None
    return (place, record) if named else None


def _holds(verdict: tuple[Place, dict[str, Any]], samples: Mapping[Place, str], conditions: Mapping[str, Any]) -> bool:
    place, record = verdict
    return samples.get(place) == record["completion"] and record["conditions"] == conditions


def verdict_record(place: Place, completion: str, result: str, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """A line of results: the official tool's four names, and ours."""
    record = {"task_id": place.task_id, "completion": completion, "result": result, "passed": result == "passed"}
    return record | {"number": place.number, "conditions": dict(conditions)}
