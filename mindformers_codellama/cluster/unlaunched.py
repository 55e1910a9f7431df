"""Ranks that a plain shell loop starts, as MindFormers' run_lite.sh does: each finds the others without `codellama launch`.

Rank 0 starts MindSpore's scheduler on a port that is free, and leaves that port where the other ranks of the same shell look
for it. With MS_SCHED_PORT set, ranks may come from different shells. The scheduler ends after the last rank.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mindformers_codellama.cluster.environment import DEFAULT_PORT, Address, Job, LocalRank, rank_variables, scheduler_variables
from mindformers_codellama.cluster.environment import environment as process_environment
from mindformers_codellama.cluster.launch_address import first_free, held_port
from mindformers_codellama.cluster.launch_place import LOCALHOST
from mindformers_codellama.cluster.rank_lock import POLL, note_of, only_process
from mindformers_codellama.errors import ClusterError, ConfigError

logger = logging.getLogger(__name__)

STARTED_BY = ("MS_ROLE", "RANK_TABLE_FILE", "OMPI_COMM_WORLD_SIZE")
"""Set by every launcher for the ranks it starts."""
KEEPER = (sys.executable, "-m", "mindformers_codellama.cluster.scheduler_keeper")
MEET_SECONDS = 60.0
"""A rank waits so long for rank 0 to say where they meet."""


@contextmanager
def joined(rank: int, ranks: int, *, what: str, device: int = 0) -> Iterator[None]:
    """While open, this process is the only one that is that rank, and MindSpore's communication can be started in it.

    A process that a launcher started stays where it was placed.

    Args:
        rank: of this process.
        ranks: of all.
        what: the ranks have in common; together with the shell it is the name of their job.
        device: of this process.

    Raises:
        ClusterError: another process is that rank already; rank 0 does not come; the port is in use.
        ConfigError: MS_SCHED_PORT is no port.
    """
    stated = _stated_port(os.environ)
    if any(os.environ.get(name) for name in STARTED_BY):
        job = os.environ.get("RANK_TABLE_FILE") or str(_master(os.environ, stated or DEFAULT_PORT))
        with only_process(rank, job):
            yield
        return
    job = str(_master(os.environ, stated)) if stated else f"of process {os.getppid()} over {what}"
    with only_process(rank, job) as held:
        held.until_exit()
        if rank:
            _place(rank, ranks, _master(os.environ, stated or _port_of_rank_0(job)), device)
            yield
            return
        master = _master(os.environ, stated) if stated else first_free(_master(os.environ, DEFAULT_PORT))
        with held_port(master):
            _start_scheduler(job, ranks, master)
            held.note(str(master.port))
            _place(rank, ranks, master, device)
            yield


def _port_of_rank_0(job: str) -> int:
    until = time.monotonic() + MEET_SECONDS
    while time.monotonic() < until:
        said = note_of(0, job)
        if said.isdecimal():
            return int(said)
        time.sleep(2 * POLL)
    problem = f"did not come within {MEET_SECONDS:.0f} s (job {job})."
    raise ClusterError("rank 0", problem, fix="start all ranks from one shell, or set MS_SCHED_PORT to the same free port for each.")


def _start_scheduler(job: str, ranks: int, master: Address) -> None:
    """MindSpore's scheduler, under a keeper that stops it when the last rank has ended."""
    place = _job(ranks, master)
    variables = process_environment(place, scheduler_variables(place), os.environ)
    none = subprocess.DEVNULL
    command = [*KEEPER, job, str(ranks)]
    subprocess.Popen(command, env=variables, stdin=none, stdout=none, stderr=none, start_new_session=True)  # noqa: S603


def _place(rank: int, ranks: int, master: Address, device: int) -> None:
    logger.info("rank %d of %d, scheduler %s", rank, ranks, master)
    os.environ.update(rank_variables(_job(ranks, master), LocalRank(rank, device)))


def _job(ranks: int, master: Address) -> Job:
    return Job(ranks=ranks, local=tuple(LocalRank(each, each) for each in range(ranks)), master=master)


def _stated_port(variables: Mapping[str, str]) -> int:
    """MS_SCHED_PORT; 0 when it is not set."""
    port = variables.get("MS_SCHED_PORT", "")
    if port and (not port.isdecimal() or not 0 < int(port) < 65536):
        raise ConfigError("MS_SCHED_PORT", f"got {port!r}, must be a port, 1 to 65535.")
    return int(port) if port else 0


def _master(variables: Mapping[str, str], port: int) -> Address:
    return Address(variables.get("MS_SCHED_HOST") or LOCALHOST, port)
