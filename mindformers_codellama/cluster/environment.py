"""What a rank's environment is: one `Job` to the variables that MindSpore, HCCL and this package read.

On CPU, and on Ascend without a rank table, ranks meet through MindSpore's dynamic cluster (MS_* and a scheduler process).
On Ascend the rank table goes through to HCCL (RANK_TABLE_FILE). MindSpore on CPU fails with RANK_TABLE_FILE, so it is
never set there: the launcher reads the table instead. Not run on Ascend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

LOCAL_RANKS = "CODELLAMA_LOCAL_RANKS"
"""Ranks on this machine, which share its cores; read by `runtime.cores`."""
DEFAULT_PORT = 8118
"""Port of the scheduler when nobody says another; msrun's."""
DEFAULT_WAIT = 600
"""Seconds the ranks wait for one another to join."""

DYNAMIC_CLUSTER = (
    *("MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "MS_NODE_ID"),
    *("MS_WORKER_IP", "MS_TOPO_TIMEOUT"),
)
"""Variables of MindSpore's dynamic cluster."""
FROM_OUTSIDE = (*DYNAMIC_CLUSTER, "RANK_TABLE_FILE", "RANK_ID", "DEVICE_ID", "RANK_SIZE", "OMPI_COMM_WORLD_SIZE", LOCAL_RANKS)
"""What a rank must not inherit: left from another launcher, it would place the rank in another job."""


class Address(NamedTuple):
    """Where the scheduler listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class LocalRank(NamedTuple):
    """One rank of this machine."""

    rank: int
    """Place among all ranks of the job."""
    device: int
    """Number of its device on this machine; without meaning on CPU."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One machine's part of a job."""

    ranks: int
    """Of all machines together."""
    local: tuple[LocalRank, ...]
    """Those of this machine."""
    master: Address
    """The scheduler; without meaning when the rank table goes through."""
    any_port: bool = False
    """Nobody else has to know the scheduler's port: another may be taken when that one is in use."""
    device_target: str = "CPU"
    """`CPU` or `Ascend`."""
    own_host: str = ""
    """Address of this machine that the others reach; empty lets MindSpore find it."""
    rank_table: Path | None = None
    wait: int = DEFAULT_WAIT
    """Seconds the ranks wait for one another to join."""
    threads: int | None = None
    """Threads of a rank's numeric libraries (OMP_NUM_THREADS); None leaves the environment as it is."""

    @property
    def spans_machines(self) -> bool:
        """Whether there are ranks elsewhere."""
        return len(self.local) < self.ranks

    @property
    def passes_rank_table(self) -> bool:
        """Whether HCCL reads the rank table; otherwise there is a scheduler."""
        return self.device_target == "Ascend" and self.rank_table is not None

    @property
    def has_scheduler(self) -> bool:
        """Whether the scheduler runs on this machine: beside rank 0."""
        return not self.passes_rank_table and any(place.rank == 0 for place in self.local)

    def after_restart(self, attempt: int) -> Job:
        """The same job on the next port: the last one may still be held by what is ending. Every machine counts alike."""
        return replace(self, master=Address(self.master.host, self.master.port + attempt))


def rank_variables(job: Job, place: LocalRank) -> dict[str, str]:
    """What is set for one rank."""
    common = {"RANK_ID": str(place.rank), "RANK_SIZE": str(job.ranks), "DEVICE_ID": str(place.device)}
    common[LOCAL_RANKS] = str(len(job.local))
    if job.passes_rank_table:
        return {"RANK_TABLE_FILE": str(job.rank_table), **common}
    return {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(place.rank), **_meeting(job), **common}


def scheduler_variables(job: Job) -> dict[str, str]:
    """What is set for the scheduler."""
    return {"MS_ROLE": "MS_SCHED", **_meeting(job)}


def environment(job: Job, variables: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a process: `variables` over what is inherited, without traces of other launchers.

    Output is not buffered, so that the last lines of a killed rank are in its log.
    """
    kept = {name: value for name, value in inherited.items() if name not in FROM_OUTSIDE}
    if job.threads is not None:
        kept.setdefault("OMP_NUM_THREADS", str(job.threads))
    kept.setdefault("PYTHONUNBUFFERED", "1")
    return {**kept, **variables}


def _meeting(job: Job) -> dict[str, str]:
    """Where and how long the processes of a dynamic cluster meet."""
    found = {
        "MS_WORKER_NUM": str(job.ranks),
        "MS_SCHED_HOST": job.master.host,
        "MS_SCHED_PORT": str(job.master.port),
        "MS_TOPO_TIMEOUT": str(job.wait),
    }
    if job.spans_machines and job.own_host:
        found["MS_WORKER_IP"] = job.own_host
    return found
