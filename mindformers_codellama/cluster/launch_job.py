"""One job from start to end: attempts, the first failure, stopping, restarts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

from mindformers_codellama.cluster.environment import Job
from mindformers_codellama.cluster.launch_address import first_free, held_port, in_use, is_free
from mindformers_codellama.cluster.launch_ranks import Member, Ranks
from mindformers_codellama.cluster.launch_report import describe_failure
from mindformers_codellama.cluster.launch_show import Logs
from mindformers_codellama.errors import ClusterError, ConfigError

STOPPED_CODE = 130
"""What a shell reports for a program that Ctrl-C ended."""
SIGNAL_CODE = 1
"""Our code when a rank was ended by a signal, which has no exit code."""
SIGTERM_CODES = (130, 143)
"""Codes of programs that end themselves in good order on SIGINT or SIGTERM."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL = 0.05
SETTLE = 2.0
"""Seconds after the first failure in which other ranks may fail by themselves and say why."""
SCHEDULER_PATIENCE = 60.0
"""Seconds the scheduler may wait for the ranks of other machines after ours have ended well."""


JOIN_SECONDS = 60.0
"""A scheduler that ended this early has not had its port."""
MOVES = 3
"""Other ports tried for a job that may have any."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to run."""

    job: Job
    command: Sequence[str]
    """Of every rank."""
    resumed: Callable[[float], Sequence[str]]
    """The command of a restart, given when the job was started (seconds since 1970); may be the same."""
    logs: Logs
    tell: Callable[[str], None]
    """Shows a line to the person."""
    max_restarts: int = 0
    grace: float = 10.0
    """Seconds from SIGTERM to SIGKILL."""


@dataclass
class Outcome:
    """How an attempt ended."""

    failures: list[Member] = field(default_factory=list)
    """In the order in which they ended."""
    stopped_by: signal.Signals | None = None

    @property
    def code(self) -> int:
        """Exit code of the job."""
        if self.stopped_by is not None:
            return STOPPED_CODE
        code = self.failures[0].code if self.failures else 0
        return SIGNAL_CODE if code < 0 or code in SIGTERM_CODES else code


def run(order: Order) -> int:
    """Run the job to its end, with as many restarts as are allowed; the exit code.

    A failure with the exit code of a wrong configuration is not tried again.

    Raises:
        ClusterError: the scheduler's port is in use, or its host is another machine.
        CodeLlamaError: a log cannot be written, or the program cannot be started.
    """
    began = time.time()
    with _stop_signals() as asked:
        for attempt in range(order.max_restarts + 1):
            job = order.job.after_restart(attempt)
            command = order.resumed(began) if attempt else order.command
            if attempt:
                where = "" if job.passes_rank_table else f", port {job.master.port}"
                how = "from the beginning" if tuple(command) == tuple(order.command) else "from the last checkpoint"
                order.tell(f"restart {attempt} of {order.max_restarts}{where}, {how}.")
            ranks, outcome = _attempt(order, job, command, asked, is_restart=attempt > 0)
            if outcome.stopped_by is not None:
                order.tell("stopped.")
                return outcome.code
            if not outcome.failures:
                return 0
            for line in describe_failure(ranks, outcome.failures):
                order.tell(line)
            if outcome.code == ConfigError.exit_code:
                return outcome.code
    return outcome.code


def _attempt(order: Order, job: Job, command: Sequence[str], asked: Sequence[signal.Signals], *, is_restart: bool) -> tuple[Ranks, Outcome]:
    """Start all ranks and watch them to their end; on another port when somebody is faster and the port is free to choose.

    MindSpore's scheduler needs seconds until it listens, and meanwhile the ranks of other jobs look for ports too.
    """
    for move in range(MOVES + 1):
        port = job.master.port
        if job.any_port:
            job = replace(job, master=first_free(job.master))
        if move or job.master.port != port:
            order.tell(f"port {port} was taken by another program while the job started; trying port {job.master.port}.")
        try:
            with _port(job, is_restart=is_restart), Ranks(job, command, order.logs, inherited=os.environ, again=is_restart) as ranks:
                outcome = _watch(ranks, order, asked)
        except ClusterError:
            if not job.any_port or move == MOVES:
                raise
            continue
        if outcome.stopped_by is not None or not _lost_port(job, outcome):
            break
        if not job.any_port or move == MOVES:
            raise in_use(job.master, "was taken by another program while the job started.")
    return ranks, outcome


def _lost_port(job: Job, outcome: Outcome) -> bool:
    """Whether the scheduler ended first, before it can have been of use, and now that it is gone somebody else has its port."""
    first = outcome.failures[0] if outcome.failures else None
    if first is None or first.rank is not None or (first.ended_after or 0) > JOIN_SECONDS:
        return False
    return not is_free(job.master)


def _watch(ranks: Ranks, order: Order, asked: Sequence[signal.Signals]) -> Outcome:
    """Until all have ended, one has failed, or a person asks to stop; then stop the rest."""
    outcome = Outcome()
    deadline: float | None = None
    while ranks.running and not asked:
        outcome.failures += [member for member in ranks.newly_ended() if member.code != 0]
        ranks_run = any(member.rank is not None for member in ranks.running)
        if outcome.failures or not ranks_run:
            if not ranks_run and (outcome.failures or not ranks.job.spans_machines):
                break
            patience = SETTLE if outcome.failures else SCHEDULER_PATIENCE
            deadline = deadline or ranks.seconds + patience
            if ranks.seconds > deadline:
                break
        time.sleep(POLL)
    if asked:
        outcome.stopped_by = asked[0]
        order.tell(f"{asked[0].name}: stopping {_count(ranks)}; once more kills them at once.")
    if any(member.rank is not None for member in ranks.running):
        _stop(ranks, order.grace, asked)
    return outcome


def _stop(ranks: Ranks, grace: float, asked: Sequence[signal.Signals]) -> None:
    """SIGTERM and time to end; what is left is killed by `Ranks` itself, and at once when a person asks again."""
    before = len(asked)
    ranks.ask_to_end()
    until = ranks.seconds + grace
    while any(member.rank is not None for member in ranks.running) and ranks.seconds < until and len(asked) == before:
        ranks.newly_ended()
        time.sleep(POLL)


def _count(ranks: Ranks) -> str:
    running = [member for member in ranks.running if member.rank is not None]
    return f"{len(running)} rank{'s' if len(running) != 1 else ''}"


@contextmanager
def _port(job: Job, *, is_restart: bool) -> Iterator[None]:
    """The scheduler must be able to listen; a restart's port is not for a person to choose."""
    with ExitStack() as stack:
        if job.has_scheduler:
            try:
                stack.enter_context(held_port(job.master))
            except ClusterError as error:
                if not is_restart:
                    raise
                fix = "start the job again with resume, on a port whose followers are free as well."
                raise ClusterError("restart", f"{error.problem.rstrip('.')}.", fix=fix) from error
        yield


@contextmanager
def _stop_signals() -> Iterator[list[signal.Signals]]:
    """Notes what asks to stop, in the order heard. What was ignored at the start (nohup) stays ignored."""
    asked: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(signal.Signals(number))

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
