"""How ranks agree: wait for each other with a limit and a message, and fail together, telling an error once."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar, cast

from mindformers_codellama.errors import ClusterError, CodeLlamaError, ToldElsewhere

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAIT_LIMIT = 7200.0
"""Seconds one rank waits for the others before the process ends; MindFormers' limit for a converted checkpoint."""
REMIND_EVERY = 60.0
"""Seconds between two lines that say what is waited for."""
ROUND = 0.5
"""Seconds between two rounds in which ranks ask each other whether they are done."""
GRACE = 5.0
"""Seconds that ranks are given to find the same error that one has found."""
Mark = tuple[str, int] | None
"""Text and exit code of an error; None without one."""


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
    _raise_one(comm, error, gather(comm, _mark(error), doing=doing), doing)


def together(comm: Gathers | None, action: Callable[[], T], *, doing: str, slow: bool = False) -> T:
    """What `action` gives, once it has succeeded on every rank; errors as `fail_together`.

    Args:
        comm: the ranks; None for a process of its own.
        action: what this rank does.
        doing: as in `gather`.
        slow: the action may take ranks longer than a collective waits (30 s with MindSpore on CPU). Then ranks keep asking
            each other whether they are done, while they work; so the action must not communicate.
    """
    result: T | None = None
    error: CodeLlamaError | None = None
    with _Rounds(comm, doing) if comm is not None and slow else nullcontext() as rounds:
        try:
            result = action()
        except CodeLlamaError as raised:
            error = raised
        if rounds is not None:
            rounds.finish(error)
    if rounds is None:
        fail_together(comm, error, doing=doing)
    else:
        _raise_one(comm, rounds.late or error, rounds.found, doing)
    return cast(T, result)


class _Rounds:
    """A thread that asks the other ranks every second whether they are done, while this one works.

    It ends when all are done, when one failed and the others had time to fail alike, or at the limit.
    """

    def __init__(self, comm: Gathers, doing: str) -> None:
        self.comm = comm
        self.doing = doing
        self.found: list[Mark] = []
        self.late: ClusterError | None = None
        self._mark: Mark = None
        self._done = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Rounds:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            return  # not one of our errors: this process ends, and the others see it gone
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def finish(self, error: CodeLlamaError | None) -> None:
        """This rank is done."""
        self._mark = _mark(error)
        self._done.set()

    def _run(self) -> None:
        started = told = failed_at = 0.0
        try:
            while True:
                done = self._done.wait(ROUND)
                answers = self.comm.gather_objects((done, self._mark, time.monotonic()))
                now = answers[0][2]  # rank 0's clock for all: a rank that went on a round longer would ask nobody
                started, told = started or now, told or now
                self.found = [mark for _, mark, _ in answers]
                working = [rank for rank, (finished, _, _) in enumerate(answers) if not finished]
                failed_at = failed_at or (now if any(self.found) else 0.0)
                if not working or (failed_at and now - failed_at > GRACE):
                    return
                if now - started > WAIT_LIMIT:
                    text = ", ".join(map(str, working))
                    problem = f"rank {text} did not finish in {WAIT_LIMIT:.0f} s."
                    self.late = ClusterError(self.doing, problem, fix="look at the logs there.")
                    self.found = [_mark(self.late)] * len(answers)
                    return
                if now - told >= REMIND_EVERY:
                    told = now
                    logger.info("%s: after %.0f s still at work: rank %s", self.doing, now - started, ", ".join(map(str, working)))
        except Exception as error:  # given to the main thread
            self._failure = error


def _mark(error: CodeLlamaError | None) -> Mark:
    return None if error is None else (str(error), error.exit_code)


def _raise_one(comm: Gathers | None, error: CodeLlamaError | None, found: list[Mark], doing: str) -> None:
    """Raise on every rank when one has an error: its own, or that another tells it."""
    first = next((rank for rank, item in enumerate(found) if item), None)
    if first is None:
        return
    alike = all(item == found[0] for item in found)
    if error is not None and not isinstance(error, ToldElsewhere) and (comm is None or not alike or comm.rank == 0):
        raise error
    text, code = found[first] or ("", ClusterError.exit_code)
    logger.info("this rank ends because of an error on rank %d: %s", first, text)
    raise ToldElsewhere(doing, f"rank {first} failed: {text}", exit_code=code)


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
