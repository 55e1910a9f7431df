"""What a MindSpore strategy file says: which part of every tensor each rank of a stage holds.

A stage's ranks are arranged in a `dev_matrix`, counted with the last axis fastest. `tensor_map` names for every dim the
axes that cut it, counted from the right of the matrix; the others hold copies. With the parallel optimizer the part is cut
once more along dim 0, among ranks that would hold copies: `opt_weight_shard_size` of them.
Source: mindspore 2.10 parallel/_tensor.py and parallel/_parallel_serialization.py, and executed against them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.boxes import Box, whole
from mindformers_codellama.layout.cuts import MOMENTS, ModelLayout
from mindformers_codellama.layout.ranks import Layout


@dataclass(frozen=True)
class TensorLayout:
    """How one tensor is cut among the ranks of a stage."""

    dev_matrix: tuple[int, ...]
    tensor_map: tuple[tuple[int, ...], ...]
    """Axes that cut each dim, from the right of the matrix, the outermost cut first; empty for a whole dim."""
    shard_step: int = 0
    """Ranks between neighbours of the parallel optimizer; 0 when it does not cut this tensor."""
    shard_size: int = 0
    """Parts the optimizer cuts; -1 means as many as there are copies."""
    stages: tuple[int, ...] = (0,)
    """Stages that hold it."""

    @property
    def ranks(self) -> int:
        """Ranks of a stage."""
        return math.prod(self.dev_matrix)

    @cached_property
    def parts(self) -> tuple[int, ...]:
        """Into how many parts each dim is cut."""
        cuts = [math.prod(self._degree(axis) for axis in axes) for axes in self.tensor_map]
        if cuts:
            cuts[0] *= math.prod(size for _, size in self._optimizer_axes)
        return tuple(cuts)

    def whole_shape(self, local: Sequence[int]) -> tuple[int, ...]:
        """Shape of the whole tensor whose parts have this shape; the number of dims must be that of the map."""
        return tuple(size * cut for size, cut in zip(local, self.parts, strict=True))

    def box(self, shape: Sequence[int], index: int) -> Box:
        """What rank `index` of a stage holds of a tensor of this whole shape, which must be divisible."""
        coordinates: list[int] = []
        for degree in reversed(self.dev_matrix):
            index, coordinate = divmod(index, degree)
            coordinates.insert(0, coordinate)
        box = whole(shape)
        for dim, axes in enumerate(self.tensor_map):
            for axis in axes:
                box = box.part(dim, coordinates[len(self.dev_matrix) - 1 - axis], self._degree(axis))
        for place, size in self._optimizer_axes:
            box = box.part(0, coordinates[place] % size, size)
        return box

    def _degree(self, axis: int) -> int:
        return self.dev_matrix[len(self.dev_matrix) - 1 - axis]

    @cached_property
    def _optimizer_axes(self) -> tuple[tuple[int, int], ...]:
        """Places in the matrix that hold copies and how many of them share a part, the outermost cut first.

        Copies are shared from the last axis on; of the axis that is not used up, neighbours share.
        """
        used = {len(self.dev_matrix) - 1 - axis for axes in self.tensor_map for axis in axes}
        copies = [place for place, degree in enumerate(self.dev_matrix) if place not in used and degree > 1]
        size = self.shard_size if self.shard_size >= 0 else math.prod(self.dev_matrix[place] for place in copies)
        if not self.shard_step or size <= 1 or not self.tensor_map:
            return ()
        found: list[tuple[int, int]] = []
        for place in reversed(copies):
            take = min(size, self.dev_matrix[place])
            if size % take or self.dev_matrix[place] % take:
                break
            found.insert(0, (place, take))
            size //= take
            if size == 1:
                return tuple(found)
        raise ValueError(f"{self.shard_size} optimizer parts do not fit the device matrix {list(self.dev_matrix)}")


@dataclass(frozen=True)
class StrategyLayouts:
    """All tensors of a strategy; `where` is its file or folder, for messages."""

    where: str
    tensors: Mapping[str, TensorLayout]

    @cached_property
    def stages(self) -> int:
        """Number of pipeline stages."""
        return 1 + max(stage for tensor in self.tensors.values() for stage in tensor.stages)

    @cached_property
    def stage_ranks(self) -> int:
        """Ranks of one stage."""
        return next(iter(self.tensors.values())).ranks

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.stages * self.stage_ranks

    @cached_property
    def layout(self) -> Layout:
        """The degrees: the most parts any weight is cut into, and copies for the rest."""
        cut = max(math.prod(t.parts) for name, t in self.tensors.items() if not name.startswith(MOMENTS))
        model = cut if self.stage_ranks % cut == 0 else 1
        return Layout(data_parallel=self.stage_ranks // model, model_parallel=model, pipeline_stage=self.stages)

    def tensor(self, name: str) -> TensorLayout | None:
        """How a tensor is cut; a moment that is not listed lies as its weight; None for names the strategy does not know."""
        weight = next((name[len(prefix) :] for prefix in MOMENTS if name.startswith(prefix)), name)
        return self.tensors.get(name) or self.tensors.get(weight)

    def box(self, name: str, shape: Sequence[int], rank: int) -> Box | None:
        """What a rank holds of a tensor of this whole shape; None when another stage has it.

        Raises:
            CheckpointError: the tensor is not in the strategy, or its shape cannot be cut so.
        """
        tensor = self.tensor(name)
        if tensor is None:
            fix = "give the strategy that was written with this model and optimizer."
            raise CheckpointError(f"{self.where}: {name}", "is not in this strategy.", fix=fix)
        if len(shape) != len(tensor.tensor_map) or any(size % cut for size, cut in zip(shape, tensor.parts, strict=True)):
            problem = f"is cut into {list(tensor.parts)} parts, which a tensor of shape {list(shape)} cannot be."
            raise CheckpointError(f"{self.where}: {name}", problem, fix="the strategy is of another model.")
        stage, index = divmod(rank, self.stage_ranks)
        return tensor.box(shape, index) if stage in tensor.stages else None


def tensor_layout(model_layout: ModelLayout, name: str) -> TensorLayout:
    """Our table of cuts in MindSpore's terms, for a weight or a moment.

    A moment cut along the data axis is written with the optimizer's fields only when dim 0 is cut along the model axis as
    well; elsewhere the map says it, because MindSpore would take the model axis first for a tensor that is whole along both.
    """
    layout, dim = model_layout.layout, model_layout.model_dim(name)
    weight = next((name[len(prefix) :] for prefix in MOMENTS if name.startswith(prefix)), name)
    axes: list[tuple[int, ...]] = [() for _ in model_layout.shapes[weight]]
    if dim is not None:
        axes[dim] = (0,)
    step = size = 0
    if name.startswith(MOMENTS) and model_layout.is_moment_cut(name):
        if dim == 0:
            step, size = layout.model_parallel, layout.data_parallel
        else:
            axes[0] = (1,)
    matrix = (layout.data_parallel, layout.model_parallel)
    return TensorLayout(matrix, tuple(axes), step, size, (model_layout.stage(name),))


def stage_tensors(model_layout: ModelLayout, stage: int) -> dict[str, TensorLayout]:
    """Weights and moments of a stage."""
    names = [prefix + name for prefix in ("", *MOMENTS) for name in model_layout.names(stage)]
    return {name: tensor_layout(model_layout, name) for name in names}
