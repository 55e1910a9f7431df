"""The checkpoint a rank starts from: whole, its own shard, or shards of another layout joined to whole tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mindformers_codellama.checkpoint.latest import get_last_checkpoint
from mindformers_codellama.checkpoint.open import CheckpointReader, open_checkpoint
from mindformers_codellama.checkpoint.shard_files import rank_folders
from mindformers_codellama.checkpoint.shard_info import SHARD_KEY, ShardInfo, read_shard_text, shard_info
from mindformers_codellama.checkpoint.sharded import open_sharded
from mindformers_codellama.checkpoint.sharded_checks import Described, check_same_parts
from mindformers_codellama.checkpoint.weight_map import is_training_state
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.cuts import MOMENTS, ModelLayout
from mindformers_codellama.layout.strategy_files import read_strategy

SHARDS = "ms-shards"
"""`format` of a reader that joins shards."""


@dataclass(frozen=True)
class Source:
    """An opened checkpoint and how its tensors stand to what a rank holds."""

    reader: CheckpointReader
    own: bool = False
    """Its tensors are the rank's parts already; False when they are whole."""
    sharded: bool = False
    """It lies in `rank_N` folders cut for another layout."""
    save: str = ""
    """Names the save of an own shard, as in `ShardInfo`."""


def open_source(
    path: str | Path,
    needed: Mapping[str, tuple[int, ...]],
    *,
    model_layout: ModelLayout | None = None,
    rank: int = 0,
    strategy: str = "",
    alone: bool = True,
) -> Source:
    """Open what `rank` starts from; only headers are read.

    A file below `rank_<rank>` that is cut as this rank needs it is taken by itself, so that a rank does not have to see
    the others' folders. It may be newer or older than what other ranks find: `start.load_weights` compares.

    Args:
        path: anything `open_checkpoint` takes, or a directory with `rank_N` folders (directly, or in `checkpoint` or
            `checkpoint_network`), or one rank's file.
        needed: shapes of this rank's weights.
        model_layout: where every tensor lies; None for a whole network.
        rank: this rank.
        strategy: strategy file or folder of shards that do not describe themselves; for others it must agree with them.
        alone: take the newest file of the own folder without looking at the others; else the newest save that is complete.

    Raises:
        CheckpointError: nothing there, damaged, another rank's part alone, or shards that cannot be joined.
    """
    path = Path(path).expanduser()
    folders = rank_folders(path)
    layouts = read_strategy(strategy) if strategy else None
    if not folders:
        return _single(path, open_checkpoint(path), model_layout, rank)
    own = _newest(folders.get(rank)) if alone else None
    if own is not None:
        info = shard_of(own)
        fits = _same_parts(info, model_layout, rank) if info else not strategy and state_shapes(own, weights=True) == dict(needed)
        if fits:
            if info and layouts:
                check_same_parts([Described(own.path, rank, info.pieces)], layouts)
            return Source(own, own=True, save=info.save if info else "")
        if list(folders) == [0] and info is None:
            return Source(open_checkpoint(path))
    elif list(folders) == [0]:
        first = _newest(folders[0])
        if first is not None and shard_of(first) is None:
            return Source(first)
    whole = open_sharded(path, strategy=strategy or None)
    mine = next((path / name for name in whole.metadata["files"] if Path(name).parent.name == f"rank_{rank}"), None)
    if mine is not None and mine.is_file():
        part = open_checkpoint(mine)
        info = shard_of(part)
        if info is not None and _same_parts(info, model_layout, rank):
            return Source(part, own=True, save=info.save)
    return Source(whole, sharded=whole.metadata["format"] == SHARDS)


def shard_of(reader: CheckpointReader) -> ShardInfo | None:
    """The description in one file; None when there is none, or one that is not of these tensors.

    Raises:
        CheckpointError: a damaged description.
    """
    text = reader.strings.get(SHARD_KEY) or reader.metadata.get(SHARD_KEY)
    if not text:
        return None
    info = read_shard_text(str(text), where=reader.path)
    return info if info.fits(state_shapes(reader)) else None


def _same_parts(info: ShardInfo, model_layout: ModelLayout | None, rank: int) -> bool:
    """Whether a described file holds exactly the weights of `rank`."""
    if model_layout is None:
        return all(piece.box.shape == piece.shape for piece in info.pieces.values()) and info.layout.pipeline_stage == 1
    mine = shard_info(model_layout, rank, moments=False).pieces
    return {name: piece for name, piece in info.pieces.items() if not name.startswith(MOMENTS)} == mine


def _single(path: Path, reader: CheckpointReader, model_layout: ModelLayout | None, rank: int) -> Source:
    info = shard_of(reader)
    if info is None or info.layout.ranks == 1:
        return Source(reader)
    if _same_parts(info, model_layout, rank):
        return Source(reader, own=True, save=info.save)
    problem = f"is the part of rank {info.rank} of a checkpoint on {info.layout.ranks} ranks (layout {info.layout})."
    raise CheckpointError(path, problem, fix="name the folder that holds the rank_N folders.")


def _newest(folder: Path | None) -> CheckpointReader | None:
    """The newest complete file of a rank's folder."""
    if folder is None:
        return None
    newest = get_last_checkpoint(folder)
    if newest is None:
        files = [file for file in folder.glob("*.safetensors") if not file.name.startswith(".")]
        return open_checkpoint(max(files, key=_numbers)) if files else None
    return open_checkpoint(newest)


def _numbers(file: Path) -> tuple[list[int], int]:
    """Epoch and step at the end of a name, then the time of change."""
    found = re.search(r"-(\d+)_(\d+)$", file.stem)
    return ([int(number) for number in found.groups()] if found else [], file.stat().st_mtime_ns)


def state_shapes(reader: CheckpointReader, *, weights: bool = False) -> dict[str, tuple[int, ...]]:
    """Name to shape of the weights and, unless only `weights` are asked for, of the moments."""
    return {
        name: shape for name, shape in reader.shapes().items() if not is_training_state(name) or (not weights and name.startswith(MOMENTS))
    }
