"""Find the newest complete checkpoint and continue from it: weights, moments, step, loss scale, random state."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.checkpoint.load import load_into
from mindformers_codellama.checkpoint.open import CheckpointReader, open_checkpoint
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, TrainingError, raise_all
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamUpdate
from mindformers_codellama.train.state import STATE_KEY, RunFacts, SavedState, TrainState, read_state_text

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
    """Damaged files that would have come first."""


def find_resume_point(path: str | Path, *, prefix: str = "") -> ResumePoint:
    """The checkpoint to go on from.

    Args:
        path: a file; or a folder with checkpoints, its `rank_0`, or the `output_dir` above them. In a folder
            the complete one with the most steps is taken (steps as the file says: its name counts epochs of
            sink mode); incomplete ones are passed over with a warning.
        prefix: in a folder where names begin with `<prefix>_rank_0-`, the others are of another run.

    Raises:
        CheckpointError: nothing there, or nothing that can be resumed.
    """
    path = Path(path).expanduser()
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


def other_branch(point: ResumePoint, files: list[Path]) -> list[Path]:
    """Of the checkpoints in a folder, those a run resumed at `point` does not come from: later ones, and ones of another run.

    Left where they are, one of them could be taken for the newest of this run.
    """
    found = []
    for file in files:
        if file.samefile(point.path) or file in point.passed_over:
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


def restore(point: ResumePoint, network: nn.Cell, update: AdamUpdate, *, facts: RunFacts, scale: LossScale) -> TrainState:
    """Fill weights and moments and give back where the run goes on. Call before the step is compiled.

    Args:
        point: from `find_resume_point`.
        network: its parameters are those of `update`.
        update: moments to fill.
        facts: of this run, compared with the stopped one's.
        scale: the configured loss scale; a dynamic one continues with the value and counters of the file.

    Raises:
        CheckpointError: a checkpoint of another model or optimizer.
        TrainingError: other data or batches than the stopped run had.
    """
    load_into(network, point.path)
    _compare_facts(point, facts)
    moments = [*update.adam_m, *update.adam_v]
    raise_all(_moment_findings(point.reader, moments))
    for moment in moments:
        moment.set_data(ms.Tensor(point.reader.read(moment.name).astype(np.float32)))
    if "mindspore" in point.saved.random:
        generator = np.frombuffer(bytes.fromhex(point.saved.random["mindspore"]), np.uint8)
        ms.set_rng_state(ms.Tensor(generator.copy()))
    state = point.saved.state
    if scale.dynamic and point.scale_in_file:
        continued = replace(state.scale, factor=scale.factor, window=scale.window)
    else:
        continued = replace(scale, current_step=state.scale.current_step, last_change=state.scale.last_change)
    return replace(state, scale=continued)


def _moment_findings(reader: CheckpointReader, moments: list[ms.Parameter]) -> Iterator[CodeLlamaError]:
    names = set(reader.names())
    missing = [moment.name for moment in moments if moment.name not in names]
    if missing:
        problem = f"{len(missing)} of {len(moments)} optimizer states are missing, the first is {missing[0]}."
        yield CheckpointError(reader.path, problem, fix="set resume_training: False to start from the weights alone.")
    for moment in moments:
        if moment.name in names and reader.shape(moment.name) != tuple(moment.shape):
            found, needed = list(reader.shape(moment.name)), list(moment.shape)
            yield CheckpointError(f"{reader.path}: {moment.name}", f"has shape {found}, the model needs {needed}.")


def _compare_facts(point: ResumePoint, facts: RunFacts) -> None:
    """Refuse a run whose data position would mean something else; warn when it cannot be known."""
    if point.saved.facts is None:
        logger.warning("%s does not say what data it was trained on; going on at step %d of this data.", point.path, point.saved.state.step)
        return
    words = {"rows": "micro batches per epoch", "data": "contents of the data files", "micro_steps": "gradient_accumulation_steps"}
    fix = "resume with the stopped run's configuration, or set resume_training: False to start anew."
    found = []
    for key, (here, there) in facts.differences(point.saved.facts).items():
        told = f"{words.get(key, key)} differ." if key == "data" else f"{words.get(key, key)} is {here} here, {there} in the checkpoint."
        found.append(TrainingError(point.path, told, fix=fix))
    raise_all(found)
