"""How many numbers of weights and moments the ranks of a stage hold, counted from the boxes of `layout.cuts`."""

from __future__ import annotations

from dataclasses import dataclass

from mindformers_codellama.layout.cuts import MOMENTS, VOCABULARY, ModelLayout

FLOAT32_ENDS = ("_norm.weight", "norm_out.weight")
"""Weights that are float32 whatever `param_init_type` says (`model.decoder.build_norm`)."""


@dataclass(frozen=True, kw_only=True)
class StageWeights:
    """Elements on one rank of a stage; the ranks of a stage hold equally many."""

    elements: int
    """All weights."""
    tensors: int
    """How many weights these are."""
    float32: int
    """Those held in float32 whatever the type of the others."""
    cut: int
    """Those whose moments are cut over the data axis."""
    moments: int
    """Both moments of all weights, as this rank holds them."""
    largest: int
    """The largest weight."""
    matrices: int
    """Weights that a product casts to the compute type when theirs is another."""


def stage_weights(where: ModelLayout, stage: int) -> StageWeights:
    """Counts of a stage. All layers of a model are alike, so one layer of the stage stands for each."""
    rank, layers = where.layout.rank(stage, 0, 0), where.layers[stage]
    first = "model.layers.0."
    counted: list[tuple[str, int]] = []
    for name in where.shapes:
        if name.startswith(first):
            if layers:
                counted.append((f"model.layers.{layers.start}.{name[len(first) :]}", len(layers)))
        elif not name.startswith("model.layers.") and where.stage(name) == stage:
            counted.append((name, 1))
    elements = float32 = cut = moments = largest = matrices = 0
    for name, times in counted:
        box = where.box(name, rank)
        assert box is not None, (name, rank)
        moment = where.box(MOMENTS[0] + name, rank)
        assert moment is not None, (name, rank)
        elements += times * box.size
        moments += times * moment.size * len(MOMENTS)
        largest = max(largest, box.size)
        float32 += times * box.size * name.endswith(FLOAT32_ENDS)
        cut += times * box.size * where.is_moment_cut(name)
        matrices += times * box.size * (name != VOCABULARY[0] and len(box.shape) > 1)
    tensors = sum(times for _, times in counted)
    return StageWeights(elements=elements, tensors=tensors, float32=float32, cut=cut, moments=moments, largest=largest, matrices=matrices)
