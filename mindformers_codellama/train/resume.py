"""Continue from a checkpoint: weights, moments, step, loss scale, random state."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_codellama.checkpoint.boxes_io import part_of
from mindformers_codellama.checkpoint.load import load_from, rank_box
from mindformers_codellama.checkpoint.source import Source
from mindformers_codellama.checkpoint.tensors import CastTensor, LazyTensor
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, TrainingError, raise_all
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.train.adapter import restore_adapter
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamUpdate
from mindformers_codellama.train.resume_point import ResumePoint, find_resume_point, other_branch
from mindformers_codellama.train.state import RunFacts, TrainState

__all__ = ["ResumePoint", "find_resume_point", "other_branch", "restore"]

logger = logging.getLogger(__name__)


def restore(
    point: ResumePoint,
    network: nn.Cell,
    update: AdamUpdate,
    *,
    facts: RunFacts,
    scale: LossScale,
    model_layout: ModelLayout | None = None,
    rank: int = 0,
) -> TrainState:
    """Fill weights and moments and give back where the run goes on. Call before the step is compiled.

    Args:
        point: from `find_resume_point`.
        network: its parameters are those of `update`.
        update: moments to fill.
        facts: of this run, compared with the stopped one's.
        scale: the configured loss scale; a dynamic one continues with the value and counters of the file.
        model_layout: where every tensor lies, when network and moments are one rank's parts.
        rank: whose.

    Raises:
        CheckpointError: a checkpoint of another model or optimizer.
        TrainingError: other data or batches than the stopped run had.
    """
    by_step = not point.own and (model_layout is not None or len(point.files) > 1)
    if facts.adapter:
        _compare_facts(point, facts, by_step=by_step)
        restore_adapter(point, update.parameters)
    else:
        load_from(network, Source(point.reader, own=point.own), model_layout=model_layout, rank=rank)
        _compare_facts(point, facts, by_step=by_step)
    moments = [*update.adam_m, *update.adam_v]
    sources = {moment.name: _moment_part(point, moment.name, model_layout, rank) for moment in moments}
    raise_all(_moment_findings(point.reader.path, moments, sources))
    for moment in moments:
        if tensor := sources[moment.name]:
            moment.set_data(ms.Tensor(CastTensor(tensor, "float32", moment.name).read()))
    if "mindspore" in point.saved.random:
        generator = np.frombuffer(bytes.fromhex(point.saved.random["mindspore"]), np.uint8)
        ms.set_rng_state(ms.Tensor(generator.copy()))
    state = point.saved.state
    if scale.dynamic and point.scale_in_file:
        continued = replace(state.scale, factor=scale.factor, window=scale.window)
    else:
        continued = replace(scale, current_step=state.scale.current_step, last_change=state.scale.last_change)
    return replace(state, scale=continued)


def _moment_part(point: ResumePoint, name: str, model_layout: ModelLayout | None, rank: int) -> LazyTensor | None:
    """What a rank holds of a moment; None when the checkpoint has no such moment."""
    tensor = point.reader.tensors.get(name)
    if tensor is None or model_layout is None or point.own:
        return tensor
    box = rank_box(model_layout, name, rank)
    return part_of(tensor, box) if all(map(int.__le__, box.stop, tensor.shape)) and len(box.stop) == len(tensor.shape) else tensor


def _moment_findings(path: Path, moments: list[ms.Parameter], sources: Mapping[str, LazyTensor | None]) -> Iterator[CodeLlamaError]:
    missing = [name for name, tensor in sources.items() if tensor is None]
    if missing:
        problem = f"{len(missing)} of {len(moments)} optimizer states are missing, the first is {missing[0]}."
        yield CheckpointError(path, problem, fix="set resume_training: False to start from the weights alone.")
    for moment in moments:
        tensor = sources[moment.name]
        if tensor is not None and tensor.shape != tuple(moment.shape):
            yield CheckpointError(f"{path}: {moment.name}", f"has shape {list(tensor.shape)}, the model needs {list(moment.shape)}.")


def _compare_facts(point: ResumePoint, facts: RunFacts, *, by_step: bool) -> None:
    """Refuse a run whose data position would mean something else; warn when it cannot be known."""
    if point.saved.facts is None:
        logger.warning("%s does not say what data it was trained on; going on at step %d of this data.", point.path, point.saved.state.step)
        return
    words = {"rows": "micro batches per epoch", "micro_steps": "gradient_accumulation_steps"}
    texts = {"data": "contents of the data files", "adapter": "pet_config, or the weights below the adapter,"}
    fix = "resume with the stopped run's configuration, or set resume_training: False to start anew."
    found = []
    for key, (here, there) in facts.differences(point.saved.facts, by_step=by_step).items():
        told = f"{texts[key]} differ." if key in texts else f"{words.get(key, key)} is {here} here, {there} in the checkpoint."
        found.append(TrainingError(point.path, told, fix=fix))
    raise_all(found)
