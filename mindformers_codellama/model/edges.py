"""Which region of `parallel.regions` stands at which edge of a part; none at all on one rank."""

from __future__ import annotations

from mindspore import nn

from mindformers_codellama.model.part import NetworkPart
from mindformers_codellama.parallel.regions import (
    POSITIONS,
    CopyRegion,
    FirstOnly,
    GatherParts,
    GatherRegion,
    ReduceRegion,
    ScatterRegion,
    SplitRegion,
)


def layer_edges(part: NetworkPart) -> tuple[nn.Cell | None, nn.Cell | None]:
    """What stands before the column-parallel and after the row-parallel matrices of a layer."""
    if part.degree == 1:
        return None, None
    if part.sequence:
        return GatherRegion(part.axis, POSITIONS, sums=True), ScatterRegion(part.axis, POSITIONS)
    return CopyRegion(part.axis), ReduceRegion(part.axis)


def embedding_edge(part: NetworkPart) -> nn.Cell | None:
    """What stands after the embedding.

    A whole embedding reads all positions on every rank even when positions are cut: its gradient is then whole too, and
    B x S x D numbers are gathered instead of V x D added.
    """
    if part.cut_vocabulary:
        return layer_edges(part)[1]
    return SplitRegion(part.axis, POSITIONS) if part.sequence else None


def head_edge(part: NetworkPart) -> nn.Cell | None:
    """What stands between the final norm and the head."""
    if part.cut_vocabulary:
        return layer_edges(part)[0]
    return GatherRegion(part.axis, POSITIONS, sums=False) if part.sequence else None


def logits_edge(part: NetworkPart) -> nn.Cell | None:
    """What makes logits `(B, V)` whole and, bit by bit, the same on every rank: one that chose another token would leave
    the others waiting.
    """
    if part.degree == 1:
        return None
    return GatherParts(part.axis, 1) if part.cut_vocabulary else FirstOnly(part.axis)
