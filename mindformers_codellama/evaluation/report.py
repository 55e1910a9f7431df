"""What an evaluation found, and how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mindformers_codellama.errors import ConfigError
from mindformers_codellama.evaluation.judge import PASSED
from mindformers_codellama.evaluation.pass_at_k import mean_pass_at_k, wilson_interval
from mindformers_codellama.evaluation.samples import Place

DEFAULT_K = (1, 10, 100)


def counts_by_task(results: Mapping[Place, str]) -> dict[str, tuple[int, int]]:
    """(samples, passed) of each task."""
    total = Counter(place.task_id for place in results)
    passed = Counter(place.task_id for place, result in results.items() if result == PASSED)
    return {task: (count, passed[task]) for task, count in total.items()}


def require_k(chosen: Sequence[int], samples: int) -> None:
    """Refuse a pass@k that so many samples of a task cannot give.

    Raises:
        ConfigError: naming it.
    """
    for k in chosen:
        if not 1 <= k <= samples:
            raise ConfigError("--k", f"pass@{k} needs at least {max(k, 1)} samples of every task, there are {samples}.", fix=f"-n {k}.")


def report(
    results: Mapping[Place, str], made: Mapping[str, Any], *, chosen: Sequence[int] = (), figures: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All that is said of a run.

    Args:
        results: of every sample, at least one.
        made: how: model, prompt, decoding, stop rule, sandbox, limits.
        chosen: values of k; empty takes those of 1, 10, 100 that every task has samples for.
        figures: from `published`.

    Raises:
        ConfigError: a k above the samples of a task.
    """
    counts = counts_by_task(results)
    least = min(samples for samples, _ in counts.values())
    require_k(chosen, least)
    ks = tuple(chosen) or tuple(k for k in DEFAULT_K if k <= least)
    rates = {f"pass@{k}": mean_pass_at_k(list(counts.values()), k) for k in ks}
    found: dict[str, Any] = {
        **rates,
        "confidence_95": {name: wilson_interval(rate, len(counts)) for name, rate in rates.items()},
        "tasks": len(counts),
        "samples": len(results),
        "passed": sum(passed for _, passed in counts.values()),
        "timed_out": sum(result == "timed out" for result in results.values()),
    }
    if figures:
        found["published"] = {"source": figures["source"]} | {name: figures[name] for name in rates if name in figures}
    return found | {"made": dict(made)}


def told(found: Mapping[str, Any]) -> str:
    """The report in lines for a person."""
    published = found.get("published", {})
    lines = []
    for name, (low, high) in found["confidence_95"].items():
        line = f"{name} {found[name]:.4f}  (95 % of {found['tasks']} tasks: {low:.3f} to {high:.3f})"
        lines.append(line + (f"  published {published[name]:.3f}" if name in published else ""))
    if published:
        lines.append(f"published: {published['source']}")
    if "exact_match" in found:
        lines.append(f"exact match {found['exact_match']:.4f}")
    lines.append(f"{found['passed']} of {found['samples']} samples passed, {found['timed_out']} ran out of time")
    return "\n".join(lines)
