"""What MindSpore's CPU operators keep besides tensors, found by following every allocation of a training step.

A multiply, add or subtract whose operands have different shapes keeps two tables of 8-byte indices, one entry per element of
its result, for as long as its graph lives; a transpose keeps one such table. So every broadcast costs 16 bytes per element
and graph, four times a float32 tensor, and in a training step these tables are more than the tensors: this, and not
kept activations, is why `recompute` raises the memory of a CPU run. MindSpore 2.10; no such thing is known of Ascend.
"""

from __future__ import annotations

from mindformers_codellama.planner.rank_work import RankWork

BROADCAST = 16
"""Bytes per element of a result whose operands were broadcast."""
TRANSPOSE = 8
"""Bytes per element that is transposed."""


def forward_tables(work: RankWork) -> int:
    """One forward graph: per block 2 broadcasts of A in each norm, 2 of Q and of K in the rotation, the mask over P; transposes
    of 2 Q and 2 K. The final norm has 2 of A. The C++ kernels keep none.
    """
    if work.kernels:
        return 0
    block = BROADCAST * (4 * work.stream + 2 * (work.queries + work.keys) + work.scores) + TRANSPOSE * 2 * (work.queries + work.keys)
    return work.layers * block + (BROADCAST * 2 * work.stream if work.last else 0)


def backward_tables(work: RankWork) -> int:
    """The backward of a graph: the same again (the softmax subtracts its row sums where the forward adds the mask)."""
    return forward_tables(work)


def training_tables(work: RankWork, *, alone: bool, micro_steps: int) -> int:
    """All graphs of a training step.

    One process with accumulation has two graphs, for the first micro batch and for the others; a stage of a pipeline that
    is not the last has a forward graph and one that computes forward and backward. Recompute repeats the forward's tables.
    """
    if not work.facts.keeps_index_tables:
        return 0
    forward, backward = forward_tables(work), backward_tables(work)
    step = forward + backward + (forward if work.recompute else 0)
    if work.stages > 1:
        return step + (0 if work.last else forward)
    return step * (2 if alone and micro_steps > 1 else 1)
