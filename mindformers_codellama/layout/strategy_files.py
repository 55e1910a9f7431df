"""MindSpore's strategy files, written and read without MindSpore and without protobuf.

`ParallelStrategyMap { uint32 current_stage = 1; ParallelStrategyItem = 2 (repeated); ParallelLayoutItem = 3 (repeated) }`,
`ParallelLayoutItem { string param_name = 1; ParallelLayouts = 2 }`, `ParallelLayouts { dev_matrix = 1, tensor_map = 2,
param_split_shape = 3, indices_offset = 4 (each a message of `dim = 1`); int32 field = 5, opt_weight_shard_step = 6,
opt_weight_shard_size = 7 }`. In a merged file every name begins with its stage and a dash.
Source: mindspore 2.10 train/node_strategy_pb2.py; the JSON form: parallel/_parallel_serialization.py.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import CheckpointError, raise_all
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.strategy import StrategyLayouts, TensorLayout, stage_tensors
from mindformers_codellama.text.wire import field_bytes, field_varint, fields, read_varint

FILE_NAME = "ckpt_strategy_rank_{rank}.ckpt"
"""In `output/strategy`, as MindFormers names it."""
MERGED_NAME = "merged_ckpt_strategy.ckpt"
_NODE = "codellama"
_64_BITS = (1 << 64) - 1


def write_strategy(path: str | Path, model_layout: ModelLayout, rank: int) -> Path:
    """Write the strategy file of a rank; ranks of one stage have equal files. It appears whole, replacing an older one.

    Args:
        path: the file, or a folder in which it gets MindFormers' name.
        model_layout: where every tensor lies.
        rank: in [0, ranks of the layout).

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".ckpt":
        path = path / FILE_NAME.format(rank=rank)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(strategy_bytes(model_layout, model_layout.layout.place(rank).stage))
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise CheckpointError(path, f"cannot be written: {error.strerror or error}.") from error
    return path


def strategy_bytes(model_layout: ModelLayout, stage: int) -> bytes:
    """The strategy file of every rank of a stage."""
    node = field_bytes(1, _NODE.encode()) + field_bytes(2, field_varint(1, stage) + field_bytes(2, field_varint(1, 1)))
    items = [
        field_bytes(3, field_bytes(1, name.encode()) + field_bytes(2, _layout_bytes(tensor)))
        for name, tensor in stage_tensors(model_layout, stage).items()
    ]
    return field_varint(1, stage) + field_bytes(2, node) + b"".join(items)


def read_strategy(source: str | Path | Sequence[str | Path]) -> StrategyLayouts:
    """Layouts from one file, several, or all of a folder; ours, MindFormers' or MindSpore's, of one stage each or merged.

    Args:
        source: file(s) or a folder. In a folder with files of ranks a merged file is left aside.

    Raises:
        CheckpointError: nothing there, not a strategy, files of one stage that differ, a stage that is missing.
    """
    files = _files(source)
    where = str(source) if isinstance(source, (str, Path)) else str(files[0].parent)
    found: dict[str, TensorLayout] = {}
    origin: dict[int, tuple[Path, dict[str, TensorLayout]]] = {}
    for file in files:
        for stage, tensors in _read_file(file).items():
            first, same = origin.setdefault(stage, (file, tensors))
            if same != tensors:
                fix = "empty the folder of strategies of other runs."
                raise CheckpointError(file, f"says something else than {first.name} about stage {stage}.", fix=fix)
    for stage in sorted(origin):
        for name, tensor in origin[stage][1].items():
            before = found.get(name)
            found[name] = tensor if before is None else replace(before, stages=(*before.stages, stage))
    strategy = StrategyLayouts(where, found)
    missing = [stage for stage in range(strategy.stages) if stage not in origin]
    fix = "give the folder with the strategy files of all ranks."
    raise_all(CheckpointError(where, f"has no strategy of stage {stage}.", fix=fix) for stage in missing)
    if len({tensor.ranks for tensor in found.values()}) > 1:
        raise CheckpointError(where, "has device matrices of different sizes.", fix="give the strategy files of one run.")
    return strategy


def _files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    if not isinstance(source, (str, Path)):
        return [Path(path) for path in source]
    path = Path(source)
    if not path.is_dir():
        if not path.is_file():
            raise CheckpointError(path, "does not exist.", fix="give a strategy file, or the folder output/strategy.")
        return [path]
    found = [file for file in sorted(path.iterdir()) if file.suffix in (".ckpt", ".json") and not file.name.startswith(".")]
    of_ranks = [file for file in found if re.search(r"_rank_\d+(\D|$)", file.stem)]
    if not found:
        raise CheckpointError(
            path, "holds no strategy file (*.ckpt).", fix="give the folder output/strategy of the run that saved the shards."
        )
    return of_ranks or found


def _read_file(path: Path) -> dict[int, dict[str, TensorLayout]]:
    """Stage to name to layout."""
    foreign = CheckpointError(path, "is not a MindSpore strategy file.", fix="strategies are in output/strategy, not among the weights.")
    try:
        if path.suffix == ".json":
            own, items = _from_json(json.loads(path.read_text(encoding="utf-8")))
        else:
            own, items = _from_protobuf(path.read_bytes())
        if not items:
            raise foreign
        stages: dict[int, dict[str, TensorLayout]] = {}
        for name, tensor in items:
            prefixed = re.match(r"(\d+)-(.+)", name)
            stage = int(prefixed[1]) if prefixed else own
            assert tensor.parts is not None  # computed here, so that a matrix that does not fit is found now
            stages.setdefault(stage, {})[prefixed[2] if prefixed else name] = replace(tensor, stages=(stage,))
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise foreign from error
    return stages


def _from_protobuf(message: bytes) -> tuple[int, list[tuple[str, TensorLayout]]]:
    """The file's own stage, and its layouts."""
    stage, nodes, items = 0, 0, []
    for number, body in _bodies(message):
        if number == 1:
            stage = _number(body)
        elif number == 2:
            nodes += 1
            strategy = next(part for field, part in _bodies(body) if field == 2)
            own = next(part for field, part in _bodies(strategy) if field == 1)
            stage = _number(own) if nodes == 1 else stage
        elif number == 3:
            parts = dict(_bodies(body))
            items.append((parts[1].decode(), _tensor_layout(parts[2])))
        else:
            raise ValueError(f"no field {number}")
    return stage, items


def _tensor_layout(message: bytes) -> TensorLayout:
    matrix: tuple[int, ...] = ()
    maps: list[tuple[int, ...]] = []
    step = size = 0
    for number, body in _bodies(message):
        if number == 1:
            matrix = matrix or _dims(body)
        elif number == 2:
            maps.append(_dims(body))
        elif number == 6:
            step = _number(body)
        elif number == 7:
            size = _number(body)
    return _made(matrix, maps, step, size)


def _from_json(values: Mapping[str, Any]) -> tuple[int, list[tuple[str, TensorLayout]]]:
    nodes = list(values["parallel_strategy_item"].values())
    items = [
        (name, _made(item["dev_matrix"], [item["tensor_map"]], item["opt_weight_shard_step"], item["opt_weight_shard_size"]))
        for name, item in values["parallel_layout_item"].items()
    ]
    return int(nodes[0]["stage"]) if nodes else int(values.get("current_stage", 0)), items


def _made(matrix: Iterable[int], maps: Sequence[Iterable[int]], step: int, size: int) -> TensorLayout:
    """One map with an axis per dim, or a map of axes per dim."""
    rows = [list(row) for row in maps]
    axes = [[axis] for axis in rows[0]] if len(rows) == 1 else [row for row in rows if row]
    tensor_map = tuple(tuple(axis for axis in row if axis != -1) for row in axes)
    made = TensorLayout(tuple(matrix), tensor_map, step, size)
    if not made.dev_matrix or any(not 0 <= axis < len(made.dev_matrix) for row in tensor_map for axis in row):
        raise ValueError("a tensor map that names no axis of the device matrix")
    return made


def _layout_bytes(tensor: TensorLayout) -> bytes:
    assert all(len(axes) <= 1 for axes in tensor.tensor_map), tensor
    axes = [row[0] if row else -1 for row in tensor.tensor_map]
    matrix = b"".join(field_varint(1, degree) for degree in tensor.dev_matrix)
    maps = b"".join(field_varint(1, axis & _64_BITS) for axis in axes)
    numbers = field_varint(5, 0) + field_varint(6, tensor.shard_step) + field_varint(7, tensor.shard_size)
    return field_bytes(1, matrix) + field_bytes(2, maps) + field_bytes(3, b"") + field_bytes(4, b"") + numbers


def _bodies(message: bytes) -> list[tuple[int, bytes]]:
    """Fields with their content: of a number its varint, of anything with a length what comes after it."""
    found = []
    for field in fields(message):
        tag, at = read_varint(message, field.start)
        if tag & 7 == 2:
            _, at = read_varint(message, at)
        found.append((field.number, message[at : field.end]))
    return found


def _dims(message: bytes) -> tuple[int, ...]:
    """The numbers of a `dim` message, written one by one or packed."""
    found: list[int] = []
    for _, body in _bodies(message):
        at = 0
        while at < len(body):
            value, at = read_varint(body, at)
            found.append(_signed(value))
    return tuple(found)


def _number(body: bytes) -> int:
    return _signed(read_varint(body, 0)[0])


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
