"""The processes of one attempt: started, watched, and all stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mindformers_codellama.cluster.environment import Job, environment, rank_variables, scheduler_variables
from mindformers_codellama.cluster.launch_guard import MARK, Guard, kill_marked
from mindformers_codellama.cluster.launch_show import LiveOutput, Logs
from mindformers_codellama.errors import ConfigError

SCHEDULER = (sys.executable, "-c", "from mindspore.communication import init; init()")
"""MindSpore's scheduler is any program that calls `init` in the scheduler's role."""


@dataclass
class Member:
    """One process of the job."""

    rank: int | None
    """None is the scheduler."""
    process: subprocess.Popen[bytes]
    ended_after: float | None = None
    """Seconds from the start of the attempt; None while it runs."""

    @property
    def code(self) -> int:
        """Exit code as `subprocess` has it: minus the number of a signal."""
        assert self.process.returncode is not None, "has ended"
        return int(self.process.returncode)

    def __str__(self) -> str:
        return "the scheduler" if self.rank is None else f"rank {self.rank}"


class Ranks:
    """Every process of one attempt on this machine.

    Used as a context: leaving it leaves no process behind, whatever happened.

    Args:
        job: this machine's part.
        command: what each rank runs.
        logs: where each one's output goes; the first rank of this machine is shown too when it is rank 0.
        inherited: the environment to start from.
        again: this is a restart.
    """

    def __init__(self, job: Job, command: Sequence[str], logs: Logs, *, inherited: Mapping[str, str], again: bool = False) -> None:
        self.job, self.command, self.logs, self.again = job, tuple(command), logs, again
        self.inherited = inherited
        self.mark = uuid.uuid4().hex
        self.members: list[Member] = []
        self._live: list[LiveOutput] = []
        self._guard: Guard | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Ranks:
        self._guard = Guard(self.mark)
        self._started = time.monotonic()
        try:
            if self.job.has_scheduler:
                self._start(None, SCHEDULER, scheduler_variables(self.job))
            for place in self.job.local:
                self._start(place.rank, self.command, rank_variables(self.job, place))
        except BaseException:
            self.__exit__()
            raise
        for live in self._live:
            live.start()  # after the last process has been started: no thread runs while Python forks
        return self

    def __exit__(self, *_: object) -> None:
        kill_marked(self.mark)
        for member in self.members:
            member.process.wait()
        for live in self._live:
            live.close()
        if self._guard is not None:
            self._guard.close()

    @property
    def ranks(self) -> list[Member]:
        """The ranks, without the scheduler."""
        return [member for member in self.members if member.rank is not None]

    @property
    def running(self) -> list[Member]:
        """Those that have not ended when last looked at."""
        return [member for member in self.members if member.ended_after is None]

    @property
    def seconds(self) -> float:
        """Since the start of this attempt."""
        return time.monotonic() - self._started

    def newly_ended(self) -> list[Member]:
        """Those that ended since the last call, in the order of ranks."""
        found = [member for member in self.running if member.process.poll() is not None]
        for member in found:
            member.ended_after = self.seconds
        return found

    def ask_to_end(self) -> None:
        """SIGTERM to every rank that runs and to its group."""
        for member in self.running:
            if member.rank is not None:
                with contextlib.suppress(OSError):
                    os.killpg(member.process.pid, signal.SIGTERM)

    def _start(self, rank: int | None, command: Sequence[str], variables: Mapping[str, str]) -> None:
        log = self.logs.open(rank, again=self.again)
        live = None
        if rank == 0:
            live = LiveOutput(log, shows_all="GLOG_v" in self.inherited)
            self._live.append(live)
        out, err = (live.stdout, live.stderr) if live else (log, log)
        env = {**environment(self.job, variables, self.inherited), MARK: self.mark}
        try:
            process = subprocess.Popen(  # noqa: S603  the person's own command
                list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, start_new_session=True
            )
        except OSError as error:
            raise ConfigError(command[0], f"cannot be started: {error.strerror}.", fix="name a codellama command or a program.") from error
        finally:
            if live is None:
                os.close(log)
        self.members.append(Member(rank, process))
