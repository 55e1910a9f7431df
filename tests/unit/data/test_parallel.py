"""Order, bounded reading ahead, and a worker that dies."""

import operator
import os

import pytest

from mindformers_codellama.data.parallel import batched, ordered_map
from mindformers_codellama.errors import DataError


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items_and_reading_ahead_is_bounded(workers):
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    ahead = []
    results = []
    for result in ordered_map(operator.neg, items(), workers=workers):
        results.append(result)
        ahead.append(len(taken) - len(results))
    assert results == [-i for i in range(100)]
    assert max(ahead) <= 4 * workers


def test_a_killed_worker_is_an_error_and_not_a_wait_for_ever():
    with pytest.raises(DataError, match=r"workers: a worker process ended without a result. Fix: use --workers 1, or free memory"):
        list(ordered_map(os._exit, [9], workers=2))


def test_batches_hold_all_items():
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
