"""Which file of every rank belongs to one save, in a folder of `rank_N` folders."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.checkpoint.safetensors_format import read_safetensors
from mindformers_codellama.checkpoint.shard_info import SHARD_KEY, ShardInfo, read_shard_text
from mindformers_codellama.checkpoint.tensors import FileTensor
from mindformers_codellama.checkpoint.weight_map import is_dropped, is_training_state
from mindformers_codellama.errors import CheckpointError, CodeLlamaError
from mindformers_codellama.layout.cuts import MOMENTS
from mindformers_codellama.layout.strategy import StrategyLayouts

log = logging.getLogger(__name__)

PLACES = ("", "checkpoint", "checkpoint_network")
"""Where `rank_N` folders are looked for below a folder, in this order."""
STATE_TEXT = "codellama_train_state"
"""The entry in which our training checkpoints say their step."""
_STEP_NAME = re.compile(r"-(\d+)_(\d+)$")


@dataclass(frozen=True)
class Shard:
    """One rank's file, its head read."""

    rank: int
    path: Path
    tensors: Mapping[str, FileTensor]
    strings: Mapping[str, str]
    info: ShardInfo | None
    """What it says about itself, when that is about these tensors and this rank."""
    crc: bool
    """Whether it ends with a checksum."""

    @cached_property
    def step(self) -> int:
        """Steps done, as the file says; -1 when it does not."""
        try:
            return int(json.loads(self.strings[STATE_TEXT])["state"]["step"])
        except (KeyError, TypeError, ValueError):
            pass
        saved = self.tensors.get("step_num")
        return int(saved.read().reshape(-1)[0]) if saved is not None and saved.shape in ((), (1,)) else -1


class _Candidate(NamedTuple):
    """Files of one name in the folders of several ranks."""

    step: int
    place: tuple[int, int]
    changed: int
    key: str
    files: dict[int, Path]
    first: Shard


def open_shard(path: Path, rank: int) -> Shard:
    """Read the head of a rank's file.

    Raises:
        CheckpointError: missing, cut short, damaged, or no checkpoint.
    """
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        strings = {key: value for key, value in metadata.items() if key.startswith("codellama_")}
        crc = False
    else:
        contents = scan_ckpt(path)
        tensors, strings, crc = contents.tensors, contents.strings, contents.crc
    tensors = {name: tensor for name, tensor in tensors.items() if not is_dropped(name)}
    info = read_shard_text(strings[SHARD_KEY], where=path) if SHARD_KEY in strings else None
    if info is not None:
        cut = {name: tensor.shape for name, tensor in tensors.items() if is_model_tensor(name)}
        if info.rank != rank or not info.fits(cut):  # a description that another tool copied along
            info = None
    return Shard(rank, path, tensors, strings, info, crc)


def is_model_tensor(name: str) -> bool:
    """Whether a tensor is a weight or a moment, which layouts cut; the rest is the same on every rank."""
    return name.startswith(MOMENTS) or not is_training_state(name)


def rank_folders(path: Path) -> dict[int, Path]:
    """Rank to its folder below a checkpoint directory; empty when there are none."""
    for place in PLACES:
        entries = (path / place).glob("rank_*")
        found = {int(name[1]): entry for entry in entries if (name := re.fullmatch(r"rank_(\d+)", entry.name)) and entry.is_dir()}
        if found:
            return dict(sorted(found.items()))
    return {}


def find_shards(path: Path, *, strategy: StrategyLayouts | None, prefix: str = "") -> tuple[list[Shard], str]:
    """The newest save that is complete on all its ranks; when none is, the newest and what it lacks, for replicas may do.

    Ranks are counted by what a file says of itself, else by the strategy. Newer is: more steps
    as the file says, then as its name says, then the time of change.

    Args:
        path: a folder with `rank_N` folders, or one above in `PLACES`.
        strategy: of files that do not describe themselves.
        prefix: start of the file names; empty takes all.

    Raises:
        CheckpointError: no folders, no files, or none that can be read.
    """
    folders = rank_folders(path)
    if not folders:
        raise CheckpointError(path, "has no rank_N folders.", fix="give the folder that holds rank_0, rank_1, ...")
    candidates = sorted(_candidates(folders, prefix), key=lambda one: one[:4], reverse=True)
    if not candidates:
        wanted = f"{prefix}*.ckpt or {prefix}*.safetensors"
        raise CheckpointError(path, f"its rank_N folders hold no checkpoint that can be read ({wanted}).")
    problems: list[str] = []
    opened: list[tuple[list[Shard], str]] = []
    for candidate in candidates:
        expected = ranks_of(candidate.first, strategy)
        others = strategy is not None and candidate.first.info is None  # a strategy of fewer ranks must be seen, not obeyed
        shards, problem = _open_all(candidate, expected, len(folders) if others else expected)
        if not problem:
            for text in problems:
                log.warning("passed over: %s", text)
            return shards, ""
        problems.append(f"{candidate.first.path.parent.parent / 'rank_*' / candidate.key}: {problem}")
        opened.append((shards, problem))
    return opened[0]


def ranks_of(shard: Shard, strategy: StrategyLayouts | None) -> int:
    """How many ranks a shard's save has; 1 when nothing says it, for then it has to be a whole model."""
    if shard.info is not None:
        return shard.info.layout.ranks
    return strategy.ranks if strategy is not None else 1


def _open_all(candidate: _Candidate, expected: int, end: int) -> tuple[list[Shard], str]:
    """Of the ranks before `end`, those that can be opened and belong together; and what is wrong when that is not all."""
    missing = [str(rank) for rank in range(expected) if rank not in candidate.files]
    problem = f"no file of rank {', '.join(missing)}" if missing else ""
    shards: list[Shard] = []
    for rank, path in sorted(candidate.files.items()):
        if rank >= max(expected, end):
            continue
        try:
            shard = candidate.first if path == candidate.first.path else open_shard(path, rank)
        except CodeLlamaError as error:
            problem = problem or f"{error.where}: {error.problem}".rstrip(".")
            continue
        if shards and not same_save(shards[0], shard):
            problem = problem or f"{path} is of another save than {shards[0].path}"
            continue
        shards.append(shard)
    return shards, problem


def same_save(one: Shard, other: Shard) -> bool:
    """Whether two files can be of one save: what both say about it is equal."""
    if (one.info is None) != (other.info is None):
        return False
    if one.info is not None and other.info is not None:
        named = one.info.save and other.info.save
        if one.info.layout != other.info.layout or (named and one.info.save != other.info.save):
            return False
    return one.step == other.step


def _candidates(folders: Mapping[int, Path], prefix: str) -> Iterator[_Candidate]:
    groups: dict[str, dict[int, Path]] = {}
    for rank, folder in folders.items():
        for file in folder.iterdir():
            if file.suffix in (".ckpt", ".safetensors") and file.name.startswith(prefix) and not file.name.startswith("."):
                for key in _keys(file, rank):
                    groups.setdefault(key, {})[rank] = file
    largest: dict[Path, int] = {}
    for files in groups.values():
        for file in files.values():
            largest[file] = max(largest.get(file, 0), len(files))
    for key, files in groups.items():
        if any(len(files) < largest[file] for file in files.values()):
            continue  # the same file is part of a larger group
        first = _first(files)
        if first is not None:
            found = _STEP_NAME.search(first.path.stem)
            place = (int(found[1]), int(found[2])) if found else (-1, -1)
            yield _Candidate(first.step, place, first.path.stat().st_mtime_ns, key, files, first)


def _first(files: Mapping[int, Path]) -> Shard | None:
    for rank, path in sorted(files.items()):
        try:
            return open_shard(path, rank)
        except CodeLlamaError as error:
            log.warning("passed over: %s", error)
    return None


def _keys(file: Path, rank: int) -> set[str]:
    """What a file may be called apart from its rank: as it is, without `_rank_N`, without a number at its end."""
    stem = file.stem
    named = re.sub(rf"rank_{rank}(?!\d)", "rank_*", stem)
    if named != stem:
        return {named + file.suffix}
    if stem.endswith(str(rank)) and not _STEP_NAME.search(stem):
        return {stem + file.suffix, stem.removesuffix(str(rank)) + "*" + file.suffix}
    return {stem + file.suffix}
