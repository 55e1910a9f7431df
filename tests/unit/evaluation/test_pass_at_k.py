"""pass@k against its definition by counting, and the interval against its own equation."""

from itertools import combinations
from math import comb

import pytest

from mindformers_codellama.evaluation.pass_at_k import Z_95, mean_pass_at_k, pass_at_k, wilson_interval


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_it_is_the_share_of_draws_with_a_passing_sample(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            draws = list(combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_large_numbers_keep_their_digits():
    # exact integers as oracle; the naive quotient of floats overflows here
    assert pass_at_k(10_000, 3, 100) == pytest.approx(1 - comb(9_997, 100) / comb(10_000, 100), rel=1e-9)


def test_the_mean_is_over_tasks_not_over_samples():
    assert mean_pass_at_k([(10, 10), (1, 0)], 1) == 0.5


@pytest.mark.parametrize(("rate", "tasks"), [(0.0, 164), (0.335, 164), (1.0, 164), (0.5, 1)])
def test_the_ends_of_the_interval_solve_wilsons_equation(rate, tasks):
    for end in wilson_interval(rate, tasks):
        assert (rate - end) ** 2 == pytest.approx(Z_95**2 * end * (1 - end) / tasks, abs=1e-12)
