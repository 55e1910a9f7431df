"""MindIR files as MindSpore's protobuf (`mind_ir.proto`): taken from export before weights are added, pointed at a data file, written.

MindSpore itself splits graph and weights only above 1 GiB, and writes the weights of every graph anew. Here they always
stand in a data file of their own, `rank_N_variables/data_0`, and all graphs of a rank point at the same one: 64 bytes (the
first is 1 for little-endian), then the tensors, each at a multiple of 64. Seen with MindSpore 2.9 and 2.10.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn
from mindspore.train import mind_ir_pb2

from mindformers_codellama.checkpoint.files import FileRecord, Output
from mindformers_codellama.mindir.files import file_sha256
from mindformers_codellama.mindir.key import MODE
from mindformers_codellama.mindir.mapped import parameter_name

ALIGNMENT = 64
GROUP_WORDS = (b"mccl_world_group", b"hccl_world_group", b"nccl_world_group")
"""What MindSpore calls the group of all ranks on CPU, Ascend and GPU."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a data file, in bytes."""

    offset: int
    length: int


def graph_proto(cell: nn.Cell, inputs: Sequence[ms.Tensor]) -> Any:
    """The `ModelProto` of a cell, its parameters named but without values.

    Only MindSpore's front end works on it, so types without a kernel on this device pass.

    Args:
        cell: what is exported; graph mode.
        inputs: tensors of the inputs' types and shapes.
    """
    kept = mind_ir_pb2.ModelProto()

    def keep(model: Any) -> None:
        kept.CopyFrom(model)
        del model.graph.parameter[:]  # so that export neither counts nor writes weights

    with tempfile.TemporaryDirectory() as folder:
        ms.export(cell, *inputs, file_name=str(Path(folder) / "graph"), file_format="MINDIR", custom_func=keep)
    return kept


def write_encrypted(path: Path, cell: nn.Cell, inputs: Sequence[ms.Tensor], key: bytes) -> FileRecord:
    """Write a graph with its weights in one file that only the key opens, and give its size and sha256.

    Args:
        path: ends with `.mindir`.
        cell: what is exported.
        inputs: as for `graph_proto`.
        key: 16, 24 or 32 bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ms.export(cell, *inputs, file_name=str(path), file_format="MINDIR", enc_key=key, enc_mode=MODE)
    path.chmod(0o600)
    return FileRecord(path.name, path.stat().st_size, file_sha256(path))


def weight_names(model: Any) -> set[str]:
    """Parameters of a graph, caches included."""
    return {parameter_name(one.name) for one in model.graph.parameter}


class DataFile:
    """A file of weights that is being written; equal zeros (empty caches) are written once."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self.places: dict[str, Place] = {}
        output.write(int(sys.byteorder == "little").to_bytes(1, sys.byteorder) + bytes(ALIGNMENT - 1))

    def add(self, name: str, parameter: ms.Parameter) -> None:
        """Append the values of one parameter; one tensor is copied at a time."""
        self._append(name, parameter.get_bytes())

    def add_zeros(self, sizes: Mapping[str, int]) -> None:
        """One run of zeros, as long as the longest, for all of these names."""
        offset, longest = self._output.size, max(sizes.values(), default=0)
        for start in range(0, longest, 1 << 22):
            self._output.write(bytes(min(1 << 22, longest - start)))
        self._pad()
        self.places.update({name: Place(offset, size) for name, size in sizes.items()})

    def _append(self, name: str, data: bytes) -> None:
        self.places[name] = Place(self._output.size, len(data))
        self._output.write(data)
        self._pad()

    def _pad(self) -> None:
        self._output.write(bytes(-self._output.size % ALIGNMENT))


def point_at(model: Any, location: str, places: Mapping[str, Place]) -> None:
    """Let the parameters of a graph be read from a data file.

    Args:
        model: a `ModelProto`, changed in place.
        location: of the data file, relative to the folder of the `.mindir`.
        places: of every parameter.
    """
    for parameter in model.graph.parameter:
        place = places[parameter_name(parameter.name)]
        parameter.ClearField("raw_data")
        parameter.external_data.location = location
        parameter.external_data.offset = place.offset
        parameter.external_data.length = place.length


def groups(model: Any) -> set[str]:
    """Communication groups that a graph names."""
    return {attribute.s.decode() for attribute in _group_attributes(model)}


def rename_world(model: Any, name: str) -> int:
    """Give the group of all ranks another name; how many operators were changed."""
    changed = 0
    for attribute in _group_attributes(model):
        if attribute.s in GROUP_WORDS and attribute.s.decode() != name:
            attribute.s = name.encode()
            changed += 1
    return changed


def write_graph(path: Path, model: Any) -> FileRecord:
    """Write a graph file and give its size and sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        output = Output(file, hashed=True)
        output.write(model.SerializeToString())
        file.flush()
        os.fsync(file.fileno())
    return output.record(path.name)


def _group_attributes(model: Any) -> Iterator[Any]:
    owners = [*model.primitives, *model.graph.node, *(node for function in model.functions for node in function.node)]
    for owner in owners:
        for attribute in owner.attribute:
            if attribute.name == "group" and attribute.s:
                yield attribute
