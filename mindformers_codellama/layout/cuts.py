"""The one table of what is cut where; layers, checkpoints, strategy files and the planner read it.

Along the model axis a matrix that makes heads, hidden channels or vocabulary rows is cut by rows (dim 0), one that
takes them by columns (dim 1); norms are whole. Along the stage axis a tensor is on the ranks of one stage. Along the
data axis weights are whole, and with the parallel optimizer (ZeRO stage 1, arXiv 1910.02054) the moments of a weight
are cut by rows of the rank's own part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.layout.boxes import Box, whole
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.layout.ranks import Layout, stage_layers

CUT_DIMS: Mapping[str, int] = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0}
"""Matrix to the dim cut along the model axis; biases of the first kind are cut as well. Source: mindformers 1.0.2."""
VOCABULARY = ("model.tok_embeddings.embedding_weight", "lm_head.weight")
"""Cut by rows when `vocab_emb_dp` is False and the vocabulary divides."""
MOMENTS = ("adam_m.", "adam_v.")
"""Prefixes of optimizer states; their shapes are the weight's."""
STATE_BYTES = 4
"""Bytes per element of an optimizer state (float32)."""

_LAYER = re.compile(r"model\.layers\.(\d+)\.(?:.+\.)?(\w+)\.(weight|bias)")


@dataclass(frozen=True, kw_only=True)
class OptimizerCut:
    """The parallel optimizer: which moments are cut along the data axis."""

    threshold: int = 64
    """Kilobytes (1024 bytes, as float32 of the rank's own part) below which a moment stays whole."""


@dataclass(frozen=True, kw_only=True)
class ModelLayout:
    """Where every tensor of a model lies in a layout."""

    config: ModelConfig
    layout: Layout
    vocabulary_cut: bool = False
    """Embedding and head cut along the model axis (`vocab_emb_dp: False`); a vocabulary that does not divide stays whole."""
    optimizer_cut: OptimizerCut | None = None
    """None keeps optimizer states as the weights are."""
    offset: int | tuple[int, ...] = 0
    """`model.model_config.offset`, see `stage_layers`."""

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every whole weight."""
        return parameter_shapes(self.config)

    @cached_property
    def layers(self) -> tuple[range, ...]:
        """Layers of each stage."""
        return stage_layers(self.config.num_layers, self.layout.pipeline_stage, self.offset)

    @property
    def cuts_vocabulary(self) -> bool:
        """Whether embedding and head really are cut."""
        degree = self.layout.model_parallel
        return self.vocabulary_cut and degree > 1 and self.config.vocab_size % degree == 0

    def stage(self, name: str) -> int:
        """The stage that holds a weight (or its moment)."""
        found = _LAYER.fullmatch(_weight(name))
        if found:
            return next(stage for stage, layers in enumerate(self.layers) if int(found[1]) in layers)
        return 0 if _weight(name) == VOCABULARY[0] else self.layout.pipeline_stage - 1

    def names(self, stage: int) -> list[str]:
        """Weights of a stage, in the network's order."""
        return [name for name in self.shapes if self.stage(name) == stage]

    def model_dim(self, name: str) -> int | None:
        """The dim of a weight (or its moment) that is cut along the model axis; None when it is whole there."""
        name = _weight(name)
        if self.layout.model_parallel == 1:
            return None
        if name in VOCABULARY:
            return 0 if self.cuts_vocabulary else None
        found = _LAYER.fullmatch(name)
        return CUT_DIMS.get(found[2]) if found else None

    def is_moment_cut(self, name: str) -> bool:
        """Whether the moments of a weight are cut along the data axis: rows divide, and there are enough bytes."""
        if self.optimizer_cut is None or self.layout.data_parallel == 1:
            return False
        local = self._model_box(_weight(name), 0)
        enough = local.size * STATE_BYTES >= self.optimizer_cut.threshold * 1024
        return enough and local.shape[0] % self.layout.data_parallel == 0

    def box(self, name: str, rank: int) -> Box | None:
        """What `rank` holds of a weight or of a moment (`adam_m.<weight>`); None when another stage has it."""
        place = self.layout.place(rank)
        if self.stage(name) != place.stage:
            return None
        box = self._model_box(_weight(name), place.model)
        if name.startswith(MOMENTS) and self.is_moment_cut(name):
            return box.part(0, place.data, self.layout.data_parallel)
        return box

    def _model_box(self, weight: str, index: int) -> Box:
        box, dim = whole(self.shapes[weight]), self.model_dim(weight)
        return box if dim is None else box.part(dim, index, self.layout.model_parallel)


def run_layout(run: RunConfig) -> Layout:
    """The degrees a configuration asks for; without `use_parallel` they are all 1.

    In `parallel_mode: 0` (data parallel) MindFormers takes every rank as a copy: only the product counts.
    """
    if not run.use_parallel:
        return Layout()
    degrees = run.parallel_config
    if run.parallel.parallel_mode == 0:
        return Layout(data_parallel=degrees.ranks)
    return Layout(data_parallel=degrees.data_parallel, model_parallel=degrees.model_parallel, pipeline_stage=degrees.pipeline_stage)


def run_model_layout(run: RunConfig, layout: Layout | None = None) -> ModelLayout:
    """Where everything of a configuration's model lies, in its own or another layout.

    A pipeline cuts the vocabulary whatever `vocab_emb_dp` says, as MindFormers does.
    """
    layout = layout or run_layout(run)
    section = run.parallel
    cut = OptimizerCut(threshold=section.parallel_optimizer_config.parallel_optimizer_threshold)
    return ModelLayout(
        config=run.model.config,
        layout=layout,
        vocabulary_cut=not run.parallel_config.vocab_emb_dp or layout.pipeline_stage > 1,
        optimizer_cut=cut if section.enable_parallel_optimizer else None,
        offset=run.model.model_config.offset if layout.pipeline_stage > 1 else 0,
    )


def _weight(name: str) -> str:
    """The weight a moment belongs to; a weight's own name otherwise."""
    return next((name[len(prefix) :] for prefix in MOMENTS if name.startswith(prefix)), name)
