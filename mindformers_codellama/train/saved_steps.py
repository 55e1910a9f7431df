"""Which saved steps are complete on every rank.

Ranks look at files in parallel and tell each other what they found, so that it works with one disk for all as well as
with one per machine: every rank's folder is looked at by one rank that sees it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mindformers_codellama.checkpoint.shard_files import rank_folders
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.parallel.agreement import Gathers, fail_together, gather, host_name, together

logger = logging.getLogger(__name__)

LOOKING = "looking for checkpoints"
"""What ranks are at, for messages."""
FILE_NAME = re.compile(r"(?P<prefix>.+)_rank_(?P<rank>\d+)-(?P<epoch>\d+)_(?P<step>\d+)\.(?:ckpt|safetensors)")


class SaveKey(NamedTuple):
    """What the files of one save have in common; the newest is the largest."""

    step: int
    """Steps done, as the files say."""
    place: tuple[int, int]
    """Epoch and step of the name."""
    save: str
    """`ShardInfo.save`, or the run's id."""
    degrees: tuple[int, int, int]
    """data_parallel, model_parallel, pipeline_stage."""

    @property
    def layout(self) -> Layout:
        """The layout it was saved in."""
        data, model, stage = self.degrees
        return Layout(data_parallel=data, model_parallel=model, pipeline_stage=stage)

    def __str__(self) -> str:
        return f"step {self.step} (-{self.place[0]}_{self.place[1]}, layout {self.layout})"


class Found(NamedTuple):
    """A file whose head can be read."""

    key: SaveKey
    rank: int
    """Whose file it is."""
    path: Path
    own_prefix: bool
    """Its name begins with the prefix of this run."""


@dataclass(frozen=True, kw_only=True)
class CommonStep:
    """The newest save that is complete on every rank."""

    key: SaveKey
    files: Mapping[int, Path]
    """Rank to its file, as the rank that looked at it sees it."""
    incomplete: tuple[Path, ...]
    """Files of saves that are not complete, and damaged ones."""


def newest_common_step(
    path: Path,
    *,
    prefix: str,
    comm: Gathers | None,
    ranks: int,
    read_key: Callable[[Path, int, int], SaveKey],
    check: Callable[[Path], object],
) -> CommonStep:
    """The save to go on from; every rank must call it.

    Args:
        path: folder with `rank_N` folders, one of those, or the `output_dir` above; or one file of a save.
        prefix: files named `<prefix>_rank_N-...` come first; others are taken when there are none.
        comm: the ranks; None for one process.
        ranks: how many they are.
        read_key: from a file, the rank of its folder and the number of rank folders to its key; raises CheckpointError.
        check: reads a file whole; raises CheckpointError when it is damaged.

    Raises:
        CheckpointError: no save is complete on all ranks; says which rank's files are missing, and on which hosts.
    """
    only = path.name if path.is_file() else ""
    folders = folders_near(path)
    seen = gather(comm, (host_name(), sorted(folders)), doing=LOOKING)
    mine = _assigned(seen, 0 if comm is None else comm.rank, ranks)
    count = 1 + max((rank for _, visible in seen for rank in visible), default=-1)
    found: list[Found] = []
    damaged: list[tuple[int, Path]] = []

    def look() -> None:
        for rank in mine:
            _look(folders[rank], (rank, count), prefix, read_key, found, damaged)

    together(comm, look, doing=LOOKING, slow=True)
    everything: list[Found] = [item for part in gather(comm, found, doing=LOOKING) for item in part]
    if any(item.own_prefix for item in everything):
        everything = [item for item in everything if item.own_prefix]
    saves: dict[SaveKey, dict[int, Path]] = {}
    for item in everything:
        saves.setdefault(item.key, {})[item.rank] = item.path
    wanted = [key for key in saves if not only or any(file.name == only for file in saves[key].values())]
    complete = sorted((key for key in wanted if set(saves[key]) == set(range(key.layout.ranks))), reverse=True)
    for key in complete:
        files = {rank: saves[key][rank] for rank in mine if rank in saves[key]}
        bad = together(comm, partial(_damaged, files, check), doing="checking a checkpoint", slow=True)
        if any(gather(comm, bad, doing=LOOKING)):
            damaged += [(rank, saves[key][rank]) for rank in bad]
            continue
        told = {name for part in gather(comm, [name for _, name in damaged], doing=LOOKING) for name in part}
        incomplete = [other for other in saves if other not in complete or other > key]
        if comm is None or comm.rank == 0:
            _tell_incomplete([other for other in incomplete if other > key], saves, told)
        left = [file for other in incomplete for file in saves[other].values()]
        return CommonStep(key=key, files=dict(sorted(saves[key].items())), incomplete=(*left, *(file for _, file in damaged)))
    bad_files = sorted({str(file) for part in gather(comm, [file for _, file in damaged], doing=LOOKING) for file in part})
    fail_together(comm, _nothing(path, seen, saves, count, bad_files), doing=LOOKING)
    raise AssertionError("every rank has the error")


def folders_near(path: Path) -> dict[int, Path]:
    """Rank to its folder, for a path as `newest_common_step` takes it; weights alone are not looked at."""
    root = _root(path)
    found = rank_folders(root)
    return {} if any(folder.parent == root / "checkpoint_network" for folder in found.values()) else found


def _root(path: Path) -> Path:
    """The folder above the `rank_N` folders."""
    folder = path.parent if path.is_file() else path
    return folder.parent if re.fullmatch(r"rank_\d+", folder.name) else folder


def _assigned(seen: list[tuple[str, list[int]]], me: int, ranks: int) -> list[int]:
    """The folders this rank looks at: each goes to the rank of its number (modulo), or else to the first that sees it."""
    mine = []
    for rank in sorted({rank for _, visible in seen for rank in visible}):
        able = [other for other, (_, visible) in enumerate(seen) if rank in visible]
        if (rank % ranks if rank % ranks in able else able[0]) == me:
            mine.append(rank)
    return mine


def _look(
    folder: Path,
    place: tuple[int, int],
    prefix: str,
    read_key: Callable[[Path, int, int], SaveKey],
    found: list[Found],
    damaged: list[tuple[int, Path]],
) -> None:
    """Read the head of every checkpoint in one rank's folder."""
    rank, count = place
    for file in sorted(folder.iterdir()):
        name = FILE_NAME.fullmatch(file.name)
        if name is None or file.name.startswith("."):
            continue
        try:
            key = read_key(file, rank, count)
        except CheckpointError as error:
            logger.warning("passed over: %s", error)
            damaged.append((rank, file))
            continue
        found.append(Found(key, rank, file, bool(prefix) and name["prefix"] == prefix))


def _damaged(files: Mapping[int, Path], check: Callable[[Path], object]) -> list[int]:
    """Ranks whose file is damaged."""
    bad = []
    for rank, file in files.items():
        try:
            check(file)
        except CheckpointError as error:
            logger.warning("passed over: %s", error)
            bad.append(rank)
    return bad


def _tell_incomplete(keys: Iterable[SaveKey], saves: Mapping[SaveKey, Mapping[int, Path]], told: set[Path]) -> None:
    """One line per save that is passed over, unless a damaged file of it was named already."""
    for key in sorted(keys, reverse=True):
        name = f"-{key.place[0]}_{key.place[1]}."
        missing = sorted(set(range(key.layout.ranks)) - set(saves[key]))
        if not any(name in file.name for file in told):
            logger.warning("passed over: %s has no complete file of rank %s", key, ", ".join(map(str, missing)))


def _nothing(
    path: Path, seen: list[tuple[str, list[int]]], saves: Mapping[SaveKey, Mapping[int, Path]], count: int, damaged: Sequence[str]
) -> CheckpointError:
    hosts = ", ".join(sorted({host for host, _ in seen}))
    if not count:
        fix = "name the output_dir of the stopped run; on disks of their own every machine needs its ranks' folders."
        return CheckpointError(path, f"has no rank_N folder with checkpoints on {hosts}.", fix=fix)
    problem = "has no step that is complete on all ranks"
    if saves:
        newest = max(saves)
        missing = ", ".join(str(rank) for rank in range(newest.layout.ranks) if rank not in saves[newest])
        problem += f"; of the newest, {newest}, " + (f"rank {missing} has no whole file on {hosts}" if missing else "a file is damaged")
    if damaged:
        problem += f"; damaged: {', '.join(damaged[:4])}{' and others' if len(damaged) > 4 else ''}"
    fix = "copy the missing rank_N folders there, or set resume_training: False to start from the weights alone."
    return CheckpointError(path, problem + ".", fix=fix)
