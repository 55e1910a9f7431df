"""Two or more results over the same tasks side by side: rates, intervals, ratios, and whether they differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mindformers_codellama.errors import DataError
from mindformers_codellama.evaluation.paired import BOOTSTRAP, bootstrap_interval, discordance
from mindformers_codellama.evaluation.pass_at_k import wilson_interval
from mindformers_codellama.evaluation.results import Result

WILSON = "Wilson, 95 %"
NOT_SETTINGS = ("opened_with", "samples")
"""Keys of `made` that are told part by part, or name files."""


def compare(results: Sequence[Result]) -> dict[str, Any]:
    """Compare the first result with each of the others.

    Args:
        results: at least two, of one suite and one set of tasks.

    Returns:
        `columns` (one per result), `pairs` (the first with each other), `differs` (settings that are not the same), `methods`.

    Raises:
        DataError: results of different suites or data, or without a task in common.
    """
    first = results[0]
    for other in results[1:]:
        require_alike(first, other)
    methods = {"interval": WILSON, "difference": BOOTSTRAP, "test": "McNemar, exact, two-sided"}
    return {
        "suite": first.suite,
        "measure": first.measure,
        "columns": [column(one) for one in results],
        "pairs": [pair(first, other) for other in results[1:]],
        "differs": differing(results),
        "methods": methods if first.measure != "loss" else {"difference": BOOTSTRAP.replace("tasks", "windows")},
    }


def require_alike(first: Result, other: Result) -> None:
    """Refuse what cannot be compared.

    Raises:
        DataError: another suite, other data, or no task in common.
    """
    if (first.suite, first.measure) != (other.suite, other.measure):
        told = [f"{one.suite or 'an unnamed suite'} ({one.measure})" for one in (first, other)]
        raise DataError(other.name, f"is of {told[1]}, {first.name} of {told[0]}.", fix="compare results of one suite.")
    data = [one.made.get("data_sha256") for one in (first, other)]
    if None not in data and data[0] != data[1]:
        raise DataError(other.name, f"was made with other data than {first.name}.", fix="run both with the same --data.")
    if not set(first.values) & set(other.values):
        raise DataError(other.name, f"has no task in common with {first.name}.", fix="run both with the same --data.")


def column(result: Result) -> dict[str, Any]:
    """What is told of one result alone."""
    count = len(result.values)
    found: dict[str, Any] = {"name": result.name, "model": result.made.get("name") or result.made.get("model") or ""}
    if result.measure == "loss":
        return found | {
            "windows": count,
            "tokens": int(sum(result.weights.values())),
            "loss": result.mean,
            "perplexity": math.exp(min(result.mean, 700.0)),
        }
    found |= {"tasks": count, "samples": result.samples, "passed": round(sum(result.values.values()), 6), result.measure: result.mean}
    found["confidence_95"] = wilson_interval(result.mean, count)
    published = result.report.get("published", {})
    value = published.get(result.measure)
    return found | ({"published": value, "published_source": published["source"]} if value is not None else {})


def pair(first: Result, other: Result) -> dict[str, Any]:
    """The first result against another, over the tasks both have."""
    tasks = [task for task in first.values if task in other.values]
    mine, theirs = (np.array([one.values[task] for task in tasks], np.float64) for one in (first, other))
    weights = np.array([first.weights[task] for task in tasks])
    means = [float(part.sum() / weights.sum()) for part in (mine, theirs)]
    found: dict[str, Any] = {
        "first": first.name,
        "second": other.name,
        "tasks": len(tasks),
        "difference": means[0] - means[1],
        "difference_95": bootstrap_interval(mine, theirs, weights),
    }
    if first.measure == "loss":
        return found | {"perplexity_ratio": math.exp(min(means[0] - means[1], 700.0))}
    found["ratio"] = means[0] / means[1] if means[1] else None
    if first.yes_or_no and other.yes_or_no:
        counts = discordance([bool(value) for value in mine], [bool(value) for value in theirs])
        found |= {**asdict(counts), "p_value": counts.p_value}
    return found


def differing(results: Sequence[Result]) -> dict[str, list[Any]]:
    """Settings that are not the same in all results, with each one's value; nested ones by `key.key`."""
    flat = [_flat(one.made) for one in results]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    return {key: [settings.get(key) for settings in flat] for key in keys if len({json_key(settings.get(key)) for settings in flat}) > 1}


def json_key(value: Any) -> str:
    """A value as a text that tells values apart."""
    return repr(value)


def _flat(made: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in made.items():
        if isinstance(value, Mapping):
            found |= _flat(value, "" if key in NOT_SETTINGS else f"{above}{key}.")
        elif key not in NOT_SETTINGS:
            found[f"{above}{key}"] = value
    return found
