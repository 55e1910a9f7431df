"""Reading graphs without their weights, and laying the data file under them: mapped into memory, never copied.

MindSpore itself reads a data file whole and copies every tensor out of it, and does so again for the second graph of a pair. A
parameter whose entry in the file names fewer bytes than it has is allocated and not touched, so a graph that names one byte for
each loads in no time; its parameters are then given their memory. Seen with MindSpore 2.9 and 2.10.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.mindir.weights import CACHE_PREFIXES

HEAD = 64
"""Bytes before the first tensor of a data file; the first is 1 for little-endian."""
GRAPH, DATA = "graph.mindir", "data_0"


def parameter_name(full: str) -> str:
    """The name a Cell gave; in the file the name of the graph stands before it."""
    return full[full.find(":") + 1 :]


def places(model: Any) -> dict[str, int]:
    """Where the parameters of a graph begin in its data file, in bytes.

    Args:
        model: a `ModelProto` whose parameters lie in one data file.
    """
    return {parameter_name(one.name): int(one.external_data.offset) for one in model.graph.parameter}


@contextmanager
def without_weights(model: Any) -> Iterator[Path]:
    """A file of the graph, while the context is open, from which MindSpore reads no weights.

    Args:
        model: a `ModelProto`, changed.
    """
    for parameter in model.graph.parameter:
        parameter.external_data.location, parameter.external_data.offset, parameter.external_data.length = DATA, HEAD, 1
    with tempfile.TemporaryDirectory(prefix="codellama_graph_") as folder:
        (Path(folder) / DATA).write_bytes(b"\1" + bytes(2 * HEAD - 1))
        (Path(folder) / GRAPH).write_bytes(model.SerializeToString())
        yield Path(folder) / GRAPH


def lay_under(graph: nn.GraphCell, data: Path, offsets: dict[str, int]) -> None:
    """Give the parameters of a graph their memory: weights are views of the mapped data file, caches zeros of their own.

    Args:
        graph: read from a file of `without_weights`.
        data: file that was compared with the manifest; it must not be written to while the graph lives, but may be removed.
        offsets: of all parameters, as `places` gives them.

    Raises:
        CheckpointError: the file cannot be mapped, or ends before a parameter does.
    """
    try:
        mapped = np.memmap(data, np.uint8, mode="c")  # private: MindSpore takes memory that may be written
    except (OSError, ValueError) as error:
        raise CheckpointError(data, f"cannot be mapped into memory: {error}.") from error
    for name, parameter in graph.parameters_and_names():
        dtype, shape = np.dtype(str(parameter.dtype).lower()), tuple(parameter.shape)  # "UInt16" to uint16
        if name.startswith(CACHE_PREFIXES):
            parameter.set_data(ms.Tensor.from_numpy(np.zeros(shape, dtype)))
            continue
        start = offsets[name]
        end = start + math.prod(shape) * dtype.itemsize
        if end > mapped.size:
            raise CheckpointError(data, f"ends before the parameter {name} does.", fix="export again: codellama export.")
        parameter.set_data(ms.Tensor.from_numpy(mapped[start:end].view(dtype).reshape(shape)))
