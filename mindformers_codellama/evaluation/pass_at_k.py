"""pass@k: how likely one of k samples of a task passes, estimated from n samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959963984540054
"""Standard normal quantile of a 95 % interval."""


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k), without bias, as a product so that no large number appears.

    Args:
        samples: n, samples of the task.
        passed: c, those that passed, in [0, n].
        k: in [1, n].

    Source: Chen et al., arXiv 2107.03374, section 2.1.
    """
    assert 0 <= passed <= samples
    assert 1 <= k <= samples
    if samples - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(samples - passed + 1, samples + 1)))


def mean_pass_at_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """Mean over tasks of `pass_at_k`; `counts` holds (samples, passed) of each."""
    return sum(pass_at_k(samples, passed, k) for samples, passed in counts) / len(counts)


def wilson_interval(rate: float, tasks: int) -> tuple[float, float]:
    """95 % interval of a rate over tasks (Wilson score); how far another set of such tasks might differ.

    Source: Wilson, JASA 22 (1927) 209.
    """
    spread = Z_95**2 / tasks
    middle = (rate + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(rate * (1 - rate) / tasks + spread / tasks / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
