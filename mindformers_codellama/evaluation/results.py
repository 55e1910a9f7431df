"""What an evaluation left in its folder, as numbers per task that can be compared with another's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import DataError
from mindformers_codellama.evaluation.samples import results_path

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluation."""

    name: str
    """Shown above its column."""
    suite: str
    measure: str
    """`pass@1`, `accuracy`, `exact_match` or `loss`."""
    values: Mapping[str, float]
    """Of every task: the share of samples that passed; of a window its loss in nats."""
    weights: Mapping[str, float]
    """Of a window its tokens; else 1 of every task."""
    samples: int
    """Of all tasks."""
    report: Mapping[str, Any]

    @property
    def made(self) -> Mapping[str, Any]:
        """How."""
        return dict(self.report["made"])

    @property
    def yes_or_no(self) -> bool:
        """Whether every task was tried once and counts as solved or not."""
        return self.measure != "loss" and self.samples == len(self.values)

    @property
    def mean(self) -> float:
        """The measure over all tasks."""
        return sum(self.values.values()) / sum(self.weights.values())


def read_result(path: Path, name: str = "") -> Result:
    """Read a folder of `codellama eval`, or a `*_report.json` beside scored samples.

    Args:
        path: folder or file.
        name: shown above its column; empty takes the folder's or file's.

    Raises:
        DataError: no report, tasks that cannot be read, or fewer of them than the report tells of.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        fix = "give the --output folder of an evaluation that has ended, or the report beside scored samples."
        raise DataError(file, f"cannot be read: {error.strerror}.", fix=fix) from error
    except ValueError as error:
        raise DataError(file, f"is not JSON: {error}.", fix="run the evaluation again.") from error
    if not isinstance(report, dict) or not all(isinstance(report.setdefault(key, {}), dict) for key in ("made", "published")):
        raise DataError(file, "is no report of codellama eval.", fix="give the --output folder of an evaluation.")
    found = _read(file, report, name or (path.resolve().name if path.is_dir() else file.stem.removesuffix("_report")))
    told = next((report[key] for key in ("windows", "questions", "tasks") if isinstance(report.get(key), int)), 0)
    if len(found.values) < told:
        problem = f"tells of {told} tasks, but only {len(found.values)} are in the file beside it."
        raise DataError(file, problem, fix="run the evaluation again, with another --output when that does not help.")
    return found


def _read(file: Path, report: Mapping[str, Any], shown: str) -> Result:
    suite = str(report.get("suite", ""))
    folder = file.parent
    if "perplexity" in report:
        losses, tokens = _losses(folder / "windows.jsonl")
        return Result(name=shown, suite=suite, measure="loss", values=losses, weights=tokens, samples=len(losses), report=report)
    if "accuracy" in report:
        solved = _solved(folder / "answers.jsonl", "question_id", lambda record: record["predict"] == record["truth"])
        return _counted(shown, suite, "accuracy", solved, report)
    named = report["made"].get("samples", f"{file.stem.removesuffix('_report')}.jsonl")
    samples = "samples.jsonl" if file.name == REPORT else Path(str(named)).name
    solved = _solved(results_path(folder / samples), "task_id", lambda record: record["passed"] is True)
    return _counted(shown, suite, "exact_match" if suite == "infilling-lines" else "pass@1", solved, report)


def _counted(name: str, suite: str, measure: str, solved: Mapping[str, Mapping[int, bool]], report: Mapping[str, Any]) -> Result:
    values = {task: sum(samples.values()) / len(samples) for task, samples in solved.items()}
    count = sum(len(samples) for samples in solved.values())
    weights = dict.fromkeys(values, 1.0)
    return Result(name=name, suite=suite, measure=measure, values=values, weights=weights, samples=count, report=report)


def _solved(path: Path, key: str, passed: Callable[[Mapping[str, Any]], bool]) -> dict[str, dict[int, bool]]:
    """Task to sample to whether it passed; of several lines the last counts."""
    found: dict[str, dict[int, bool]] = defaultdict(dict)
    for where, record in _records(path):
        try:
            found[str(record[key])][int(record.get("number", 0))] = passed(record)
        except KeyError as error:
            raise DataError(where, f"has no {error.args[0]}.", fix="run the evaluation again.") from error
        except (TypeError, ValueError) as error:
            raise DataError(where, "has a number that is none.", fix="run the evaluation again.") from error
    if not found:
        raise DataError(path, "holds no result.", fix="run the evaluation again.")
    return found


def _losses(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    losses: dict[str, float] = {}
    tokens: dict[str, float] = {}
    for where, record in _records(path):
        try:
            losses[record["window"]], tokens[record["window"]] = float(record["loss"]), float(record["tokens"])
        except KeyError as error:
            raise DataError(where, f"has no {error.args[0]}.", fix="run the evaluation again with another --output.") from error
        except (TypeError, ValueError) as error:
            raise DataError(where, "has a number that is none.", fix="run the evaluation again with another --output.") from error
    if not losses:
        raise DataError(path, "holds no window.", fix="run codellama eval perplexity with --output.")
    return losses, tokens


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}.", fix="it belongs to the report beside it.") from error
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}", f"is not JSON: {error}.", fix="run the evaluation again.") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}", "is no JSON object.", fix="run the evaluation again.")
        yield f"{path}:{number}", record
