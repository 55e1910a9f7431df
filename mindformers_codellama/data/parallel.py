"""Work over several processes with results in the order of the input and a bounded number of items in flight."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from mindformers_codellama.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT = 4
"""Items waiting or running per worker: enough to keep all busy, few enough to bound memory."""


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def ordered_map(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """`map(work, items)` over `workers` processes; the same results in the same order for any number of them.

    Args:
        work: picklable, as a `functools.partial` of a module's function.
        items: read as workers become free.
        workers: 1 runs everything in this process.

    Raises:
        DataError: a worker was killed, as by the system when memory runs out.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")  # fork is not safe beside MindSpore's threads
    waiting: deque[Future[Result]] = deque()
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= workers * _IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError("workers", "a worker process ended without a result.", fix="use --workers 1, or free memory.") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
