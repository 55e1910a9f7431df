"""How ranks agree: wait for each other with a limit and a message, and fail together, telling an error once."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

from mindformers_codellama.errors import ClusterError, CodeLlamaError, ToldElsewhere

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAIT_LIMIT = 7200.0
"""Seconds one rank waits for the others before the process ends; MindFormers' limit for a converted checkpoint."""
REMIND_EVERY = 60.0
"""Seconds between two lines that say what is waited for."""


class Gathers(Protocol):
    """What is needed of `comm.Comm`; tests give their own."""

    @property
    def rank(self) -> int:
        """This process among the ranks."""

    def gather_objects(self, value: Any) -> list[Any]:
        """What every rank gave, by rank."""


def gather(comm: Gathers | None, value: Any, *, doing: str, limit: float = WAIT_LIMIT) -> list[Any]:
    """What every rank gave, by rank; `[value]` without `comm`. Every rank must call it, in the same order of calls.

    Args:
        comm: the ranks; None for a process of its own.
        value: anything that pickles.
        doing: what the ranks are at, for the line that is logged while this one waits.
        limit: seconds after which this process ends with exit code 9: a rank may hang, and a wait inside MindSpore cannot be given up.
    """
    if comm is None:
        return [value]
    with _watched(comm.rank, doing, limit):
        return comm.gather_objects(value)


def fail_together(comm: Gathers | None, error: CodeLlamaError | None, *, doing: str) -> None:
    """Return when no rank has an error; else raise on every rank, told once.

    An error that all ranks have alike is raised as it is by rank 0, others by the ranks that have them; the remaining
    ranks raise `ToldElsewhere` with the exit code of the first.

    Args:
        comm: the ranks; None for a process of its own.
        error: of this rank.
        doing: as in `gather`.
    """
    mine = None if error is None else (str(error), error.exit_code)
    found = gather(comm, mine, doing=doing)
    first = next((rank for rank, item in enumerate(found) if item), None)
    if first is None:
        return
    assert comm is not None or error is not None
    alike = all(item == found[0] for item in found)
    tells = error is not None and not isinstance(error, ToldElsewhere) and (comm is None or not alike or comm.rank == 0)
    if tells and error is not None:
        raise error
    text, code = found[first]
    logger.info("this rank ends because of an error on rank %d: %s", first, text)
    raise ToldElsewhere(doing, f"rank {first} failed: {text}", exit_code=code)


def together(comm: Gathers | None, action: Callable[[], T], *, doing: str) -> T:
    """What `action` gives, once it has succeeded on every rank; errors as `fail_together`."""
    result: T | None = None
    error: CodeLlamaError | None = None
    try:
        result = action()
    except CodeLlamaError as raised:
        error = raised
    fail_together(comm, error, doing=doing)
    return cast(T, result)


def host_name() -> str:
    """The name of this machine, for messages about paths it does not see."""
    return socket.gethostname()


@contextmanager
def _watched(rank: int, doing: str, limit: float) -> Iterator[None]:
    """Log while the body waits, and end the process at the limit."""
    done = threading.Event()

    def watch() -> None:
        started = time.monotonic()
        while not done.wait(min(REMIND_EVERY, max(0.0, limit - (time.monotonic() - started)))):
            seconds = time.monotonic() - started
            if seconds >= limit:
                problem = f"rank {rank} waited {seconds:.0f} s for the other ranks."
                error = ClusterError(doing, problem, fix="look at the logs of the other ranks for one that hangs or is gone.")
                sys.stderr.write(f"codellama: error: {error}\n")
                sys.stderr.flush()
                os._exit(ClusterError.exit_code)
            logger.info("%s: rank %d has waited %.0f s for the other ranks (limit %.0f s)", doing, rank, seconds, limit)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
