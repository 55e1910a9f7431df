"""The one door to MindSpore's communication: who we are, which ranks share an axis, and what is sent between graphs.

Collectives inside a graph are Cells of `regions`. Measured on CPU (MindSpore 2.9 and 2.10, backend mccl): AllReduce works
in any group, AllGather and Broadcast in the world only, ReduceScatter and Barrier not at all; send and recv work outside
of graphs. On Ascend the same calls go to HCCL; not run on Ascend.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import mindspore as ms
import numpy as np

from mindformers_codellama.errors import ClusterError, first_line
from mindformers_codellama.layout.ranks import AXES, Layout, Place

logger = logging.getLogger(__name__)

_WORLD_ALIAS = "hccl_world_group"
"""Name that MindSpore's send and recv look up at import, whatever the backend is."""


@dataclass(frozen=True)
class Axis:
    """One direction in which ranks work together."""

    size: int = 1
    """Ranks along it."""
    index: int = 0
    """This rank's place, in [0, size)."""
    group: str = ""
    """MindSpore's name of the group; empty when size is 1."""


ALONE = Axis()
"""An axis of one rank."""


@dataclass(frozen=True, kw_only=True)
class Comm:
    """This process among the ranks of a layout; made by `join`."""

    layout: Layout
    rank: int
    data: Axis = ALONE
    model: Axis = ALONE
    stage: Axis = ALONE

    @property
    def place(self) -> Place:
        """Coordinates of this rank."""
        return self.layout.place(self.rank)

    @property
    def world(self) -> Axis:
        """All ranks of the job, whatever their axes."""
        return ALONE if self.is_alone else Axis(self.layout.ranks, self.rank, _world_group())

    @property
    def is_alone(self) -> bool:
        """Whether there is one rank only."""
        return self.layout.ranks == 1

    def gather_objects(self, value: Any) -> list[Any]:
        """What every rank gave, by rank. Every rank must call it, in the same order of calls."""
        if self.is_alone:
            return [value]
        import mindspore.mint.distributed as distributed

        values: list[Any] = [None] * self.layout.ranks
        distributed.all_gather_object(values, value)
        return values

    def wait_for_all(self) -> None:
        """Return when every rank has called it. MindSpore ends a process whose peers are dead after about a minute."""
        self.gather_objects(None)

    def send(self, tensor: ms.Tensor, rank: int) -> None:
        """Send to another rank, which calls `receive`."""
        import mindspore.mint.distributed as distributed

        distributed.send(tensor, rank, group=_world_group())

    def receive(self, shape: tuple[int, ...], dtype: ms.Type, rank: int) -> ms.Tensor:
        """The tensor another rank sends."""
        import mindspore.mint.distributed as distributed

        tensor = ms.Tensor(np.zeros(shape, np.float32)).astype(dtype)
        distributed.recv(tensor, rank, group=_world_group())
        return tensor


SINGLE = Comm(layout=Layout(), rank=0)
"""A process that is no rank of anything."""


def join(layout: Layout) -> Comm:
    """Join the job this process was started in as one rank; with one rank nothing is started.

    Call after `runtime.context.enter_context`; every rank must call it with the same layout. It may be called again.

    Raises:
        ClusterError: the process was not started as a rank, the job has another number of ranks, or does not form.
    """
    if layout.ranks == 1:
        return Comm(layout=layout, rank=0)
    started = time.monotonic()
    require_started(layout)
    rank, ranks = connect()
    if ranks != layout.ranks:
        raise ClusterError("parallel_config", f"layout {layout} needs {layout.ranks} ranks, the job has {ranks}.")
    axes = {axis: _axis(layout, axis, rank) for axis in AXES}
    logger.info("rank %d of %d (layout %s) joined in %.1f s", rank, ranks, layout, time.monotonic() - started)
    return Comm(layout=layout, rank=rank, **axes)


def require_started(layout: Layout) -> None:
    """Raise when a layout has several ranks and this process was not started as one.

    Raises:
        ClusterError: so it is.
    """
    if layout.ranks > 1:
        _require_rank(f"layout {layout} needs {layout.ranks} ranks, and this process is none.")


def connect() -> tuple[int, int]:
    """Start communication with the other ranks of the job, once; (rank, ranks).

    Raises:
        ClusterError: this process was not started as a rank, or the job does not form.
    """
    from mindspore.communication import get_group_size, get_rank, init

    if connected():
        return int(get_rank()), int(get_group_size())
    _require_rank("True needs several ranks, and this process is none.")
    try:
        init()
    except (RuntimeError, ValueError) as error:
        fix = "check that every rank was started, and that MS_SCHED_HOST and MS_SCHED_PORT can be reached."
        raise ClusterError("communication", f"the ranks did not come together: {first_line(error)}", fix=fix) from error
    rank, ranks = int(get_rank()), int(get_group_size())
    wanted = os.environ.get("RANK_ID") or os.environ.get("MS_NODE_ID")
    if wanted and wanted.strip() != str(rank):
        raise ClusterError("RANK_ID", f"this process was started as rank {wanted}, MindSpore counts it as {rank}.")
    _name_world(rank, ranks)
    return rank, ranks


def connected() -> bool:
    """Whether this process has started communication as one rank of a job."""
    from mindspore.communication import GlobalComm

    return bool(GlobalComm.INITED)


def _require_rank(problem: str) -> None:
    if not any(os.environ.get(name) for name in ("MS_ROLE", "RANK_TABLE_FILE", "OMPI_COMM_WORLD_SIZE")):
        fix = "start it with `codellama launch` (or scripts/run_distribute.sh, msrun), or set use_parallel: False."
        raise ClusterError("use_parallel", problem, fix=fix)


def _axis(layout: Layout, axis: str, rank: int) -> Axis:
    """The axis of this rank; every rank makes only the groups it belongs to."""
    ranks = layout.group(axis, rank)
    if len(ranks) == 1:
        return ALONE
    if len(ranks) == layout.ranks:
        return Axis(len(ranks), ranks.index(rank), _world_group())
    name = f"{axis}_{ranks[0]}_of_{layout}"
    _make_group(name, ranks)
    return Axis(len(ranks), ranks.index(rank), name)


@cache
def _make_group(name: str, ranks: tuple[int, ...]) -> None:
    """Once per process: MindSpore refuses a name it knows."""
    from mindspore.communication import create_group

    create_group(name, list(ranks))


def _world_group() -> str:
    from mindspore.communication import GlobalComm

    return str(GlobalComm.WORLD_COMM_GROUP)


def _name_world(rank: int, ranks: int) -> None:
    """MindSpore's send looks up a default group name that does not exist on CPU; tell it what it would have found."""
    import mindspore.mint.distributed.distributed as module

    module._GROUP_RANK_CACHE[_WORLD_ALIAS] = rank
    module._GROUP_SIZE_CACHE[_WORLD_ALIAS] = ranks
