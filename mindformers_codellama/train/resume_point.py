"""Find the newest complete checkpoint, of one process or of several ranks."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.checkpoint.open import CheckpointReader, open_checkpoint
from mindformers_codellama.checkpoint.shard_info import SHARD_KEY, shard_info
from mindformers_codellama.checkpoint.sharded import open_shards
from mindformers_codellama.checkpoint.source import shard_of, state_shapes
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.parallel.agreement import gather, host_name, together
from mindformers_codellama.parallel.comm import Comm
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.saved_steps import LOOKING, CommonStep, SaveKey, folders_near, newest_common_step
from mindformers_codellama.train.state import STATE_KEY, SavedState, TrainState, read_state_text

logger = logging.getLogger(__name__)

STEP_NAME = re.compile(r"-(\d+)_(\d+)\.(?:ckpt|safetensors)")


@dataclass(frozen=True)
class ResumePoint:
    """A complete checkpoint with its optimizer state."""

    path: Path
    reader: CheckpointReader
    saved: SavedState
    scale_in_file: bool
    """Whether the file says what the loss scale was."""
    passed_over: tuple[Path, ...] = ()
    """Damaged files that would have come first; of several ranks also the files of saves that are not complete."""
    own: bool = False
    """The file holds this rank's parts; False when its tensors are whole."""
    files: Mapping[int, Path] = field(default_factory=dict)
    """Rank to its file, when they are several ranks'."""


def find_resume_point(
    path: str | Path,
    *,
    prefix: str = "",
    comm: Comm | None = None,
    model_layout: ModelLayout | None = None,
    auto_trans: bool = False,
    strategy: str = "",
) -> ResumePoint:
    """The checkpoint to go on from; every rank must call it.

    Args:
        path: a file; or a folder with checkpoints, its `rank_0`, or the `output_dir` above them. In a folder
            the complete one with the most steps is taken (steps as the file says: its name counts epochs of
            sink mode); incomplete ones are passed over with a warning. Of several ranks a step counts that is
            complete on all of them.
        prefix: in a folder where names begin with `<prefix>_rank_0-`, the others are of another run.
        comm: this process among the ranks; None for one process.
        model_layout: where every tensor of this run lies; needed with several ranks.
        auto_trans: take shards of another layout (`auto_trans_ckpt`).
        strategy: strategy file or folder of shards that do not describe themselves.

    Raises:
        CheckpointError: nothing there, or nothing that can be resumed.
    """
    path = Path(path).expanduser()
    ranks = 1 if comm is None else comm.layout.ranks
    many = comm if ranks > 1 else None
    if ranks == 1 and len(folders_near(path)) < 2:
        return _find_single(path, prefix)
    if not any(gather(many, bool(folders_near(path)), doing=LOOKING)):
        return together(many, lambda: _find_single(path, prefix), doing=LOOKING, slow=True)
    common = newest_common_step(path, prefix=prefix, comm=many, ranks=ranks, read_key=_read_key, check=_check_whole)
    rank = 0 if comm is None else comm.rank
    layout = model_layout if ranks > 1 else None
    return together(many, lambda: _open_common(common, layout, rank, auto_trans=auto_trans, strategy=strategy), doing=LOOKING, slow=True)


def _find_single(path: Path, prefix: str) -> ResumePoint:
    """The newest complete file of one process."""
    if path.is_file():
        return _open(path)
    if not path.is_dir():
        raise CheckpointError(path, "does not exist.", fix="name the checkpoint, or the output_dir of the stopped run.")
    files = _files_below(path, prefix)
    passed_over: list[Path] = []

    def attempt(file: Path, *, check_crc: bool) -> ResumePoint | None:
        try:
            return _open(file, check_crc=check_crc)
        except CheckpointError as error:
            logger.warning("passed over: %s", error)
            passed_over.append(file)
            return None

    points = [point for file in files if (point := attempt(file, check_crc=False))]
    for point in sorted(points, key=_age, reverse=True):
        if whole := attempt(point.path, check_crc=True):
            return replace(whole, passed_over=tuple(passed_over))
    problem = f"has no complete checkpoint with optimizer state ({len(files)} files looked at)."
    fix = "name the output_dir of the stopped run, or set resume_training: False to start from the weights alone."
    raise CheckpointError(path, problem, fix=fix)


def _open_common(common: CommonStep, model_layout: ModelLayout | None, rank: int, *, auto_trans: bool, strategy: str) -> ResumePoint:
    """The files of a save as this rank reads them: its own, or all of them joined to whole tensors."""
    files = common.files
    if common.key.layout.ranks == 1:
        return replace(_open_seen(files[0]), passed_over=common.incomplete, files=files)
    if model_layout is not None and rank in files:
        point = _open_seen(files[rank])
        if _is_own(point, model_layout, rank, len(files)):
            return replace(point, passed_over=common.incomplete, own=True, files=files)
    if not auto_trans:
        here = model_layout.layout if model_layout else Layout()
        problem = f"is of {common.key}, this run of layout {here} (or cuts embedding or optimizer states otherwise)."
        fix = "set auto_trans_ckpt: True to cut it anew, or take the layout and the switches it was saved with."
        raise CheckpointError(files[0], problem, fix=fix)
    first = _open_seen(files[0])
    return replace(first, reader=open_shards(files, strategy=strategy or None), passed_over=common.incomplete, files=files)


def _open_seen(file: Path) -> ResumePoint:
    """Open a file that another rank may have found."""
    if not file.exists():
        fix = "copy the rank_N folders to this machine, or put them on a disk that all machines share."
        raise CheckpointError(file, f"cannot be seen from {host_name()}.", fix=fix)
    return _open(file, check_crc=False)


def _is_own(point: ResumePoint, model_layout: ModelLayout, rank: int, ranks: int) -> bool:
    """Whether a file holds exactly what `rank` needs; without a description the shapes must tell."""
    needed, found = shard_info(model_layout, rank), shard_of(point.reader)
    if found is not None:
        return found.pieces == needed.pieces
    return ranks == model_layout.layout.ranks and needed.fits(state_shapes(point.reader))


def _read_key(file: Path, rank: int, count: int) -> SaveKey:
    """What a file says it is, from its head."""
    point = _open(file, check_crc=False)
    step, name = point.saved.state.step, STEP_NAME.search(file.name)
    place = (int(name[1]), int(name[2])) if name else (0, 0)
    info = shard_of(point.reader)
    if info is None and (SHARD_KEY in point.reader.strings or SHARD_KEY in point.reader.metadata):
        raise CheckpointError(file, "does not hold the parts it says it holds.", fix="copy it again, or go on from an earlier step.")
    if info is None:
        known = point.saved.facts is not None  # written by one process of ours; MindFormers does not say its layout
        return SaveKey(step, place, point.saved.run_id, (1, 1, 1) if known else (count, 1, 1))
    if info.rank != rank:
        raise CheckpointError(file, f"is the part of rank {info.rank}.", fix="put it back into its own rank_N folder.")
    layout = info.layout
    return SaveKey(step, place, info.save, (layout.data_parallel, layout.model_parallel, layout.pipeline_stage))


def _check_whole(file: Path) -> None:
    if file.suffix == ".ckpt":
        scan_ckpt(file, check_crc=True)


def other_branch(point: ResumePoint, files: list[Path]) -> list[Path]:
    """Of the checkpoints in a folder, those a run resumed at `point` does not come from: later ones, and ones of another run.

    Left where they are, one of them could be taken for the newest of this run.
    """
    known = {path.resolve() for path in (point.path, *point.files.values(), *point.passed_over)}
    found = []
    for file in files:
        if file.resolve() in known:
            continue
        try:
            other = _open(file, check_crc=False).saved
        except CheckpointError:
            continue  # damaged: no resume takes it
        another_run = bool(other.run_id and point.saved.run_id) and other.run_id != point.saved.run_id
        if another_run or other.state.step > point.saved.state.step:
            found.append(file)
    return found


def _files_below(folder: Path, prefix: str) -> list[Path]:
    places = (folder, folder / "rank_0", folder / "checkpoint", folder / "checkpoint" / "rank_0")
    files = [
        file for place in places for file in place.glob("*") if file.suffix in (".ckpt", ".safetensors") and not file.name.startswith(".")
    ]
    own = [file for file in files if prefix and file.name.startswith(f"{prefix}_rank_0-")]
    return sorted(own or files)


def _age(point: ResumePoint) -> tuple[int, int, int, int]:
    found = STEP_NAME.search(point.path.name)
    epoch, step = (int(found[1]), int(found[2])) if found else (-1, -1)
    return point.saved.state.step, epoch, step, point.path.stat().st_mtime_ns


def _open(file: Path, *, check_crc: bool = True) -> ResumePoint:
    if file.suffix == ".ckpt" and check_crc:
        scan_ckpt(file, check_crc=True)
    reader = open_checkpoint(file)
    text = reader.strings.get(STATE_KEY) or reader.metadata.get(STATE_KEY)
    if text:
        return ResumePoint(file, reader, read_state_text(str(text), where=file), True)
    if "global_step" not in reader.names() or not any(name.startswith("adam_m.") for name in reader.names()):
        fix = "to start from these weights alone, set resume_training: False."
        raise CheckpointError(file, "holds weights, but no state of a training run.", fix=fix)
    return ResumePoint(file, reader, _mindformers_state(reader), "loss_scale" in reader.names() or "scale_sense" in reader.names())


def _mindformers_state(reader: CheckpointReader) -> SavedState:
    """State from the entries MindFormers writes."""

    def number(*names: str, default: float) -> float:
        name = next((name for name in names if name in reader.names()), None)
        return default if name is None else float(reader.read(name).reshape(-1)[0])

    updates = int(number("global_step", default=0))
    step = int(number("step_num", default=updates))
    scale = LossScale(
        value=number("loss_scale", "scale_sense", default=1.0),
        current_step=int(number("current_iterator_step", default=step + 1)),
        last_change=int(number("last_overflow_iterator_step", default=0)),
    )
    return SavedState(state=TrainState(step=step, updates=updates, scale=scale))
