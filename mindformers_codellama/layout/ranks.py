"""Ranks laid out along three axes: data, model, stage.

A rank's number is `stage * (data_parallel * model_parallel) + data * model_parallel + model`, MindSpore's own order for
pipeline stages, so that its tools and ours mean the same rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

AXES = ("data", "model", "stage")
"""Names of the axes: copies of the model, ranks that share each layer, groups of layers."""


class Place(NamedTuple):
    """Where one rank stands on each axis, from 0."""

    stage: int
    data: int
    model: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The degrees of the three axes; each at least 1."""

    data_parallel: int = 1
    """Copies of the model, each with its own rows."""
    model_parallel: int = 1
    """Ranks that share each layer."""
    pipeline_stage: int = 1
    """Groups of layers, each on ranks of its own."""

    def __post_init__(self) -> None:
        assert min(self.data_parallel, self.model_parallel, self.pipeline_stage) >= 1, self

    def __str__(self) -> str:
        return f"{self.data_parallel}x{self.model_parallel}x{self.pipeline_stage}"

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return self.data_parallel * self.model_parallel * self.pipeline_stage

    @property
    def stage_ranks(self) -> int:
        """Ranks of one pipeline stage."""
        return self.data_parallel * self.model_parallel

    def place(self, rank: int) -> Place:
        """Coordinates of a rank in [0, ranks)."""
        assert 0 <= rank < self.ranks, (rank, self)
        stage, rest = divmod(rank, self.stage_ranks)
        data, model = divmod(rest, self.model_parallel)
        return Place(stage, data, model)

    def rank(self, stage: int, data: int, model: int) -> int:
        """The rank at these coordinates."""
        return stage * self.stage_ranks + data * self.model_parallel + model

    def group(self, axis: str, rank: int) -> tuple[int, ...]:
        """The ranks that differ from `rank` only along `axis` (one of `AXES`), itself included, in order."""
        stage, data, model = self.place(rank)
        if axis == "data":
            return tuple(self.rank(stage, i, model) for i in range(self.data_parallel))
        if axis == "model":
            return tuple(self.rank(stage, data, i) for i in range(self.model_parallel))
        assert axis == "stage", axis
        return tuple(self.rank(i, data, model) for i in range(self.pipeline_stage))

    def groups(self, axis: str) -> list[tuple[int, ...]]:
        """All groups of an axis, each once, ordered by their first rank."""
        return sorted({self.group(axis, rank) for rank in range(self.ranks)})


def stage_layers(num_layers: int, stages: int, offset: int | tuple[int, ...] = 0) -> tuple[range, ...]:
    """The layers of each stage.

    Layer i belongs to stage `min((i + offset) // max((L + 1) // stages, 1), stages - 1)`; the embedding to the first,
    the final norm and the head to the last. Source: mindformers 1.0.2 llama_transformer.py, set_layer_stage_recompute.

    Args:
        num_layers: L, at least `stages`.
        stages: number of stages.
        offset: one number for the rule above, or one per stage: how many layers more than `L // stages` it takes
            (MindFormers' list form; the list must add up to `L - stages * (L // stages)`).
    """
    if isinstance(offset, tuple):
        counts = [num_layers // stages + more for more in offset]
        assert (len(counts), sum(counts)) == (stages, num_layers), (num_layers, stages, offset)
        starts = [sum(counts[:i]) for i in range(stages + 1)]
        return tuple(range(a, b) for a, b in zip(starts, starts[1:], strict=False))
    per_stage = max((num_layers + 1) // stages, 1)
    owners = [min((i + offset) // per_stage, stages - 1) for i in range(num_layers)]
    return tuple(range(owners.index(s), owners.index(s) + owners.count(s)) if s in owners else range(0, 0) for s in range(stages))
