"""What the planner knows of the devices, each number with its source; where they stand in servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mindformers_codellama.errors import ConfigError
from mindformers_codellama.layout.ranks import Layout

MIB, GIB = 1 << 20, 1 << 30
UNITS = {"": GIB, "MB": MIB, "MIB": MIB, "M": MIB, "GB": GIB, "GIB": GIB, "G": GIB, "TB": GIB << 10, "TIB": GIB << 10, "T": GIB << 10}
"""Units of `--device-memory` and `context.max_device_memory`: binary, as MindSpore and npu-smi count a 64 GB card (65536 MB)."""


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """One kind of device. Rates only rank layouts and give a rough step time; memory does not depend on them."""

    reserved_share: float
    """Share of the memory that MindSpore leaves to others."""
    group_bytes: int
    """Buffers of one communication group."""
    process_bytes: int
    """Held by every process before the model is there."""
    graph_bytes: int
    """Held by the compiled graphs of a model without layers."""
    layer_graph_bytes: int
    """Held by the compiled graphs for each layer, whatever its size."""
    kernel_graph_bytes: int
    """As `graph_bytes` where the C++ kernels compute."""
    kernel_layer_graph_bytes: int
    """As `layer_graph_bytes` there."""
    by_hand_bytes: int
    """Instead of both where they train without a graph."""
    rank_bytes: int
    """Held by a process that is one of several ranks."""
    exchange_graph_bytes: int
    """Held by the graph of each exchange of gradients, per weight."""
    keeps_index_tables: bool
    """Operators keep tables of element indices: see `index_tables`."""
    fuses_norm: bool
    """RMSNorm is one operator and keeps no normalised copy of its input."""
    keeps_sigmoid: bool
    """The sigmoid inside silu is kept for the backward pass."""
    gathers_by_adding: bool
    """A gather or a scatter is an all-reduce, which sends twice as much."""
    flops: float
    """Multiply and add counted as two, per second and rank, reached in practice."""
    near_bandwidth: float
    """Bytes per second that a rank sends to ranks of its server."""
    far_bandwidth: float
    """The same to ranks of other servers."""
    latency: float
    """Seconds that a collective takes whatever its size."""


DEVICES: Mapping[str, DeviceFacts] = {
    # Not run on Ascend. 1/16: MindSpore's ascend_memory_adapter.cc takes 15/16 of the free memory. Groups: HCCL_BUFFSIZE is
    # 200 MB by default and taken twice (hiascend.com, environment variables). Rates: about 45 % of 313 TFLOPS in float16,
    # half of HCCS inside a server, most of one 200 Gbit/s port between servers.
    "Ascend": DeviceFacts(
        reserved_share=1 / 16,
        group_bytes=400 * MIB,
        process_bytes=0,
        graph_bytes=0,
        layer_graph_bytes=0,
        kernel_graph_bytes=0,
        kernel_layer_graph_bytes=0,
        by_hand_bytes=0,
        rank_bytes=0,
        exchange_graph_bytes=0,
        keeps_index_tables=False,
        fuses_norm=True,
        keeps_sigmoid=False,
        gathers_by_adding=False,
        flops=1.4e14,
        near_bandwidth=1e11,
        far_bandwidth=2e10,
        latency=5e-5,
    ),
    # Measured with MindSpore 2.10 on x86-64 (benchmarks/plan_memory.py, benchmarks/scaling.py): 423 MB after import, 118 MB +
    # 27 MB per layer (with the kernels 75 + 16; without graphs 40 in all) for graphs of a training step of no size. Two ranks
    # with 21 and 75 weights took 45 and 80 MB more than one when they exchange gradients once, 114 and 193 MB with the
    # parallel optimizer. Communication between processes: all-reduce of a few bytes 4 to 8 ms, of 4 MB 46 ms. Flops: float32
    # training on one core of an EPYC.
    "CPU": DeviceFacts(
        reserved_share=0.0,
        group_bytes=0,
        process_bytes=423_000_000,
        graph_bytes=118_000_000,
        layer_graph_bytes=27_000_000,
        kernel_graph_bytes=75_000_000,
        kernel_layer_graph_bytes=16_000_000,
        by_hand_bytes=40_000_000,
        rank_bytes=30_000_000,
        exchange_graph_bytes=650_000,
        keeps_index_tables=True,
        fuses_norm=False,
        keeps_sigmoid=True,
        gathers_by_adding=True,
        flops=5e10,
        near_bandwidth=1e8,
        far_bandwidth=1e8,
        latency=6e-3,
    ),
}


@dataclass(frozen=True)
class Servers:
    """Which ranks share a server: the server of each rank, by number."""

    server_of: tuple[int, ...]

    @classmethod
    def of_size(cls, ranks: int, per_server: int) -> Servers:
        """Ranks in order over servers of equal size."""
        return cls(tuple(rank // per_server for rank in range(ranks)))

    def is_near(self, layout: Layout, axis: str) -> bool:
        """Whether the ranks of every group of an axis are in one server."""
        steps = {"data": layout.model_parallel, "model": 1, "stage": layout.stage_ranks}
        sizes = {"data": layout.data_parallel, "model": layout.model_parallel, "stage": layout.pipeline_stage}
        step, size = steps[axis], sizes[axis]
        firsts = (rank for rank in range(layout.ranks) if rank // step % size == 0)
        return all(len(set(self.server_of[first : first + step * size : step])) == 1 for first in firsts)


def parse_memory(text: str, *, where: str) -> int:
    """Bytes of `64GB`, `57.5GB`, `65536MB`, or `64` (GB); a GB is 1024^3 bytes, as MindSpore counts.

    Raises:
        ConfigError: anything else, or nothing.
    """
    word = text.strip().upper()
    number = word.rstrip("BGIMT")
    unit = word[len(number) :]
    try:
        size = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        size = 0.0
    if not 0 < size < float("inf"):
        raise ConfigError(where, f"got {text!r}.", fix="write a size such as 64GB or 65536MB.")
    return int(size)
