"""Are two results over the same tasks different, or could chance alone have made them so?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
AT_ONCE = 1 << 22
"""Random numbers held at a time."""
BOOTSTRAP = f"paired percentile bootstrap over tasks, {DRAWS} draws, seed 0"


@dataclass(frozen=True)
class Discordance:
    """Tasks by who solved them."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided."""
        return mcnemar_exact(self.only_first, self.only_second)


def discordance(first: Sequence[bool], second: Sequence[bool]) -> Discordance:
    """Count tasks; both in the same order."""
    pairs = list(zip(first, second, strict=True))
    return Discordance(*(pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Probability of a split at least as uneven when either side is as likely, in (0, 1].

    Source: McNemar, Psychometrika 12 (1947) 153; exact: the binomial distribution with one half, both tails.
    """
    count = only_first + only_second
    tail = sum(math.comb(count, many) for many in range(min(only_first, only_second) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**count)))


def bootstrap_interval(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of mean(first) - mean(second) when tasks are drawn anew, with what both made of each.

    Args:
        first: of every task, `(tasks,)`; with weights the sum over the task, as for `second`.
        second: in the same order.
        weights: the mean is sum(values) / sum(weights); None is one of every task.
        draws: of as many tasks as there are.
        seed: of the draws.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentiles).
    """
    difference = first - second
    tasks = len(difference)
    scale = np.ones(tasks) if weights is None else weights
    rng = np.random.default_rng(seed)
    found: list[NDArray[np.float64]] = []
    step = max(1, AT_ONCE // tasks)
    for at in range(0, draws, step):
        chosen = rng.integers(0, tasks, (min(step, draws - at), tasks))
        found.append(difference[chosen].sum(1) / scale[chosen].sum(1))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)
