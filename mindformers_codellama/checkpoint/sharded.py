"""The whole view of a sharded checkpoint: tensors joined from the files of all ranks, read piece by piece.

Where a shard's piece belongs is said by the shard itself (`shard_info`), or by a strategy file for shards that other tools
wrote. Nothing is guessed: without either, shards are refused.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_codellama.checkpoint.boxes_io import blocks, fill_box, read_box
from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.checkpoint.dtypes import numpy_dtype
from mindformers_codellama.checkpoint.manifest import read_manifest
from mindformers_codellama.checkpoint.open import CheckpointReader, open_checkpoint
from mindformers_codellama.checkpoint.report import compare
from mindformers_codellama.checkpoint.shard_files import Shard, find_shards, is_model_tensor, open_shard, same_save
from mindformers_codellama.checkpoint.shard_info import SHARD_KEY
from mindformers_codellama.checkpoint.sharded_checks import (
    SAMPLES,
    Described,
    Gathered,
    Placed,
    check_cover,
    check_same_parts,
    compare_replicas,
    few,
)
from mindformers_codellama.checkpoint.tensors import FileTensor, LazyTensor
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes, is_training_state
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, raise_all
from mindformers_codellama.layout.boxes import Box, whole
from mindformers_codellama.layout.cuts import MOMENTS
from mindformers_codellama.layout.strategy import StrategyLayouts
from mindformers_codellama.layout.strategy_files import read_strategy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinedTensor:
    """A whole tensor whose parts lie in several files; the parts cover it and do not overlap."""

    shape: tuple[int, ...]
    dtype: str
    parts: tuple[tuple[Box, FileTensor], ...]

    def read(self) -> np.ndarray:
        """The whole tensor; one copy in memory."""
        return read_box(self, whole(self.shape))

    def chunks(self) -> Iterator[np.ndarray]:
        """Flat pieces in C order."""
        for block in blocks(whole(self.shape), numpy_dtype(self.dtype).itemsize):
            yield read_box(self, block).reshape(-1)

    def fill_box(self, box: Box, out: np.ndarray) -> None:
        """Read what the box has in common with every part."""
        for place, tensor in self.parts:
            common = box.common(place)
            if common is not None:
                fill_box(tensor, common.inside(place), out[common.inside(box).slices])


def open_sharded(folder: str | Path, *, strategy: str | Path | None = None, prefix: str = "", verify: bool = False) -> CheckpointReader:
    """Open the newest complete save in `rank_N` folders as whole tensors; only heads are read.

    Args:
        folder: holds `rank_0`, `rank_1`, ..., directly or in `checkpoint` or `checkpoint_network`.
        strategy: strategy file or folder of shards that do not describe themselves; for others it must agree with them.
        prefix: start of the file names, when a folder holds several kinds.
        verify: compare the checksums of files that have one, and all replicas; otherwise the first of each is taken.

    Raises:
        CheckpointError: missing ranks, a shard missing or cut short, shards that do not say where they belong, a
            strategy of another model or layout, parts that leave gaps or overlap, and with `verify` replicas that differ.
    """
    folder = Path(folder)
    layouts = read_strategy(strategy) if strategy else None
    shards, lost = find_shards(folder, strategy=layouts, prefix=prefix)
    return _join(folder, shards, layouts, verify=verify, lost=lost)


def open_shards(files: Mapping[int, Path], *, strategy: str | Path | None = None, verify: bool = False) -> CheckpointReader:
    """The same from the file of every rank.

    Raises:
        CheckpointError: as `open_sharded`; also files of different saves.
    """
    assert files, "no files"
    layouts = read_strategy(strategy) if strategy else None
    shards = [open_shard(path, rank) for rank, path in sorted(files.items())]
    first = shards[0]
    raise_all(CheckpointError(one.path, f"is of another save than {first.path}.") for one in shards if not same_save(first, one))
    folder = first.path.parent.parent if first.path.parent.name == f"rank_{first.rank}" else first.path.parent
    return _join(folder, shards, layouts, verify=verify)


def _join(folder: Path, shards: Sequence[Shard], strategy: StrategyLayouts | None, *, verify: bool, lost: str = "") -> CheckpointReader:
    for shard in shards if verify else ():
        if shard.crc:
            scan_ckpt(shard.path, check_crc=True)
    described = all(shard.info is not None for shard in shards)
    if not described and strategy is None:
        reader = _replicas(folder, shards)
        _remark(folder, lost)
        return reader
    gathered = _gather(shards, None if described else strategy)
    if strategy is not None:
        check_same_parts([Described(shard.path, shard.rank, shard.info.pieces) for shard in shards if shard.info], strategy)
    check_cover(folder, shards, gathered, strategy, lost)
    _remark(folder, lost)
    if verify:
        compare_replicas(gathered, samples=0)
    elif not described:
        compare_replicas(gathered, samples=SAMPLES)
    if not described:
        _check_width(folder, gathered, strategy)
    tensors: dict[str, LazyTensor] = {}
    for name, found in gathered.items():
        parts = tuple((box, parts[0].tensor) for box, parts in found.distinct.items())
        tensors[name] = parts[0][1] if len(parts) == 1 else JoinedTensor(found.shape, found.dtype, parts)
    strings: dict[str, str] = {}
    for shard in reversed(shards):
        tensors |= {name: tensor for name, tensor in shard.tensors.items() if name not in gathered}
        strings |= shard.strings
    strings.pop(SHARD_KEY, None)
    config, manifest = read_manifest(folder)
    info = shards[0].info
    about: dict[str, Any] = {
        "format": "ms-shards",
        "files": [str(shard.path.relative_to(folder)) if shard.path.is_relative_to(folder) else str(shard.path) for shard in shards],
        "layout": str(info.layout if info is not None else strategy.layout if strategy is not None else ""),
        "crc": all(shard.crc for shard in shards),
        "manifest": manifest,
    }
    order = list(manifest.get("sharding", {}).get("order", ()))
    return CheckpointReader(folder, {name: tensors[name] for name in _ordered(tensors, shards, order)}, about, config, strings)


def _remark(folder: Path, lost: str) -> None:
    """A file is missing, but others hold all that it held."""
    if lost:
        log.warning("%s: no save is complete on all ranks (%s); the other ranks hold all of this one.", folder, lost)


def _replicas(folder: Path, shards: Sequence[Shard]) -> CheckpointReader:
    """Files that say nothing: right when the first is a whole model (data parallel copies), refused otherwise."""
    first = shards[0]
    weights = {name: tensor.shape for name, tensor in first.tensors.items() if not is_training_state(name)}
    sizes = Sizes.found_in(weights)
    if sizes is not None and sizes.query_rows == sizes.hidden:
        needed = expected_shapes(sizes)
        difference = compare(weights, needed)
        if not difference.missing and not difference.misshaped:
            return open_checkpoint(first.path)
    fix = "give the strategy that was saved with them: the folder output/strategy, or a strategy file."
    raise CheckpointError(folder, "holds shards that do not say which part of every tensor they are.", fix=fix)


def _check_width(folder: Path, gathered: Mapping[str, Gathered], strategy: StrategyLayouts | None) -> None:
    """Refuse a strategy that takes copies for parts: the joined queries would be wider than the model."""
    sizes = Sizes.found_in({name: found.shape for name, found in gathered.items()})
    if sizes is not None and sizes.query_rows != sizes.hidden:
        where = strategy.where if strategy is not None else folder
        problem = f"makes {sizes.query_rows} query rows of the shards in {folder}, the model is {sizes.hidden} wide."
        raise CheckpointError(where, problem, fix="give the strategy of the run that saved the shards.")


def _gather(shards: Sequence[Shard], strategy: StrategyLayouts | None) -> dict[str, Gathered]:
    """Every weight and moment with its parts, placed by the strategy, or without one by the shards themselves."""
    gathered: dict[str, Gathered] = {}
    problems: list[CodeLlamaError] = []
    for shard in shards:
        for name, tensor in shard.tensors.items():
            if not is_model_tensor(name):
                continue
            try:
                shape, box = _place(shard, name, tensor, strategy)
            except CodeLlamaError as error:
                problems.append(error)
                continue
            found = gathered.setdefault(name, Gathered(shape, tensor.dtype))
            if (found.shape, found.dtype) != (shape, tensor.dtype):
                problem = f"is part of a {tensor.dtype} tensor of shape {list(shape)}, on rank {found.parts[0].shard.rank} of a "
                problems.append(CheckpointError(f"{shard.path}: {name}", f"{problem}{found.dtype} one of shape {list(found.shape)}."))
            found.parts.append(Placed(shard, box, tensor))
    raise_all(few(problems))
    return gathered


def _place(shard: Shard, name: str, tensor: FileTensor, strategy: StrategyLayouts | None) -> tuple[tuple[int, ...], Box]:
    """Shape of the whole tensor and the box of a shard's part."""
    if strategy is None:
        assert shard.info is not None
        piece = shard.info.pieces[name]
        return piece.shape, piece.box
    fix = "give the strategy of the run that saved the shards."
    layout = strategy.tensor(name)
    if layout is None or len(layout.tensor_map) != len(tensor.shape):
        problem = "is not in the strategy" if layout is None else f"has {len(tensor.shape)} dims, in the strategy {len(layout.tensor_map)}"
        raise CheckpointError(f"{shard.path}: {name}", f"{problem} {strategy.where}.", fix=fix)
    shape = layout.whole_shape(tensor.shape)
    box = strategy.box(name, shape, shard.rank) if shard.rank < strategy.ranks else None
    if box is None:
        stages = ", ".join(map(str, layout.stages))
        problem = f"is on rank {shard.rank}; the strategy ({strategy.ranks} ranks) has it on stage {stages} of {strategy.stages}."
        raise CheckpointError(f"{shard.path}: {name}", problem, fix=fix)
    return shape, box


def _ordered(tensors: Mapping[str, LazyTensor], shards: Sequence[Shard], order: Sequence[str]) -> list[str]:
    """The order of the file the shards were made from; when that is not known, weights by layer, moments likewise, the rest."""
    if set(order) == set(tensors):
        return list(order)
    place: dict[str, int] = {}
    for name in itertools.chain.from_iterable(shard.tensors for shard in shards):
        place.setdefault(name, len(place))
    return sorted(tensors, key=lambda name: (_kind(name), _layer(name), place[name]))


def _layer(name: str) -> float:
    """Number of a tensor's layer; the embedding comes before, what is outside the layers after."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1 if "embedding" in name else math.inf


def _kind(name: str) -> int:
    """Weights, first moments, second moments, the rest."""
    if not is_model_tensor(name):
        return len(MOMENTS) + 1
    return next((number for number, prefix in enumerate(MOMENTS, 1) if name.startswith(prefix)), 0)
