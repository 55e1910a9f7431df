"""What has to hold for the parts of a sharded checkpoint before they are believed: they cover every tensor exactly once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mindformers_codellama.checkpoint.boxes_io import blocks, read_box
from mindformers_codellama.checkpoint.dtypes import numpy_dtype
from mindformers_codellama.checkpoint.shard_files import Shard
from mindformers_codellama.checkpoint.shard_info import Piece
from mindformers_codellama.checkpoint.tensors import FileTensor
from mindformers_codellama.checkpoint.weight_map import to_theirs
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, raise_all
from mindformers_codellama.layout.boxes import Box, whole
from mindformers_codellama.layout.cuts import MOMENTS
from mindformers_codellama.layout.strategy import StrategyLayouts

SAMPLES = 4
"""How many replicated tensors are compared to recognise a strategy of another layout."""
_SAMPLE_BYTES = 1 << 16
"""How much of each."""


class Placed(NamedTuple):
    """One rank's part of a tensor."""

    shard: Shard
    box: Box
    tensor: FileTensor


class Described(NamedTuple):
    """A rank's file and what it says it holds."""

    path: Path
    rank: int
    pieces: Mapping[str, Piece]


@dataclass
class Gathered:
    """All parts of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    parts: list[Placed] = field(default_factory=list)

    @property
    def distinct(self) -> dict[Box, list[Placed]]:
        """Box to the ranks that hold it, the lowest first."""
        found: dict[Box, list[Placed]] = {}
        for part in self.parts:
            found.setdefault(part.box, []).append(part)
        return found


def check_cover(
    folder: Path, shards: Sequence[Shard], gathered: Mapping[str, Gathered], strategy: StrategyLayouts | None, lost: str = ""
) -> None:
    """Refuse tensors that are not covered exactly once, and a stage or a tensor no shard has.

    Args:
        folder: for messages.
        shards: all that were opened, at least one.
        gathered: their parts.
        strategy: of shards that do not describe themselves.
        lost: why some rank's file is not among the shards, when that is known.

    Raises:
        CheckpointError: one for the ranks that are missing, else for every tensor.
    """
    info = shards[0].info
    layout = info.layout if info is not None else strategy.layout if strategy is not None else None
    assert layout is not None
    present = {shard.rank for shard in shards}
    stages = {rank // layout.stage_ranks for rank in present}
    gone = [f"pipeline stage {stage}" for stage in range(layout.pipeline_stage) if stage not in stages]
    if strategy is not None and info is None and not gone:
        gone = [name for name in strategy.tensors if to_theirs(name) and name not in gathered]
    holes = {name: problem for name, found in gathered.items() if (problem := _hole(found))}
    missing = sorted(set(range(layout.ranks)) - present)
    if missing and (gone or holes):
        first = gone[0] if gone else next(iter(holes))
        ranks = ", ".join(map(str, missing))
        problem = f"lacks the shard of rank {ranks} of {layout.ranks}{f' ({lost})' if lost else ''}; without it {first} is not whole."
        raise CheckpointError(folder, problem, fix="copy the folders of all ranks here.")
    fix = "give the strategy of the run that saved the shards."
    where = strategy.where if strategy is not None else ""
    absent = [CheckpointError(f"{folder}: {name}", f"is in the strategy {where}, but in no shard.", fix=fix) for name in gone]
    fix = "the shards are of several runs, or the strategy is of another; save or copy them again."
    raise_all(few([*absent, *(CheckpointError(f"{folder}: {name}", problem, fix=fix) for name, problem in holes.items())]))


def check_same_parts(shards: Sequence[Described], strategy: StrategyLayouts) -> None:
    """Refuse a strategy that contradicts shards that say themselves where they belong.

    Raises:
        CheckpointError: once, for the first tensor that is not in the strategy or lies elsewhere by it.
    """
    fix = "give the strategy of the run that saved the shards, or none: they say themselves where they belong."
    for path, rank, pieces in shards:
        folder = path.parent.parent  # ranks that each look at their own file say the same, so that it is told once
        for name, piece in pieces.items():
            if strategy.tensor(name) is None:
                raise CheckpointError(strategy.where, f"is of another run: it does not know {name} of the shards in {folder}.", fix=fix)
            if name.startswith(MOMENTS) and name not in strategy.tensors:
                continue  # strategies of other tools list weights alone
            try:
                other = strategy.box(name, piece.shape, rank) if rank < strategy.ranks else None
            except CheckpointError:
                other = None
            if other != piece.box:
                problem = f"is of another run: it cuts {name} otherwise ({strategy.ranks} ranks) than the shards in {folder} say."
                raise CheckpointError(strategy.where, problem, fix=fix)


def _hole(found: Gathered) -> str:
    """What is wrong with the cover of a tensor; empty when nothing is."""
    boxes = list(found.distinct)
    for one, other in itertools.combinations(boxes, 2):
        if one.common(other):
            return f"its parts {_text(one)} and {_text(other)} overlap."
    held, needed = sum(box.size for box in boxes), whole(found.shape).size
    return "" if held == needed else f"its parts hold {held} of {needed} elements."


def compare_replicas(gathered: Mapping[str, Gathered], *, samples: int) -> None:
    """Refuse replicas that differ: of every tensor, all of it; or with `samples` the start of some that are cut."""
    done = 0
    for name, found in gathered.items():
        for box, parts in found.distinct.items():
            if samples and (box == whole(found.shape) or done == samples):
                break
            for other in parts[1:]:
                limit = _SAMPLE_BYTES if samples else None
                for block in blocks(whole(box.shape), numpy_dtype(found.dtype).itemsize, limit):
                    if read_box(parts[0].tensor, block).tobytes() != read_box(other.tensor, block).tobytes():
                        raise _differ(name, parts[0], other, sampled=bool(samples))
                    if samples:
                        break
            done += bool(samples) and len(parts) > 1


def _differ(name: str, one: Placed, other: Placed, *, sampled: bool) -> CheckpointError:
    problem = f"differs from that of {one.shard.path}, although both should be the part {_text(one.box)}"
    if sampled:
        return CheckpointError(
            f"{other.shard.path}: {name}", f"{problem}: the strategy is of another layout, or the shards of several saves."
        )
    return CheckpointError(
        f"{other.shard.path}: {name}", f"{problem}.", fix="the first of equal parts is taken; find out which rank is right."
    )


def _text(box: Box) -> str:
    return "[" + ", ".join(f"{a}:{b}" for a, b in zip(*box, strict=True)) + "]"


def few(problems: Sequence[CodeLlamaError], most: int = 8) -> list[CodeLlamaError]:
    """The first problems of many alike."""
    left = len(problems) - most
    return [*problems[:most], *([CheckpointError("and", f"{left} more of this kind.")] if left > 0 else [])]
