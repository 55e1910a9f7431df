"""Bytes that one rank sends in one step, by axis and collective.

A ring sends (arXiv 1910.02054, section 7): all-reduce of b bytes over n ranks `2 (n - 1) / n b`, gather to or scatter from b
bytes in all `(n - 1) / n b`. On the CPU a gather or scatter is an all-reduce (`parallel.regions`), so twice as much.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindformers_codellama.planner.rank_work import RankWork


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """One kind of exchange on one axis."""

    axis: str
    """`data`, `model` or `stage`."""
    what: str
    """What is exchanged, for a person."""
    bytes: int
    """Sent by one rank in one step."""
    calls: int
    """Collectives in one step."""


def all_reduce(size: int, ranks: int) -> int:
    """Bytes one rank sends to add `size` bytes over `ranks` ranks."""
    return 2 * (ranks - 1) * size // ranks


def gather(size: int, ranks: int, *, by_adding: bool) -> int:
    """Bytes one rank sends so that every rank has `size` bytes of which each had a part; a scatter of sums sends as much."""
    return all_reduce(size, ranks) if by_adding else (ranks - 1) * size // ranks


def model_traffic(work: RankWork, micro_steps: int, *, training: bool, hidden_size: int) -> list[Traffic]:
    """Inside the layers: B S D of the compute type leaves and enters each of the two halves of a block (arXiv 1909.08053).

    Whole stream: 2 all-reduces per layer forward, 2 backward. Cut stream: 2 gathers and 2 scatters instead of each 2
    (arXiv 2205.05198). Edges of embedding and head as in `model.edges`. A stage that is not the last computes its forward
    twice in training. With a cut stream the gradients of norms are added once per step.
    """
    if work.degree == 1:
        return []
    size, ranks = work.compute * work.gathered, work.degree
    adds = all_reduce(size, ranks)
    moves = gather(size, ranks, by_adding=work.facts.gathers_by_adding)
    edge, edges = (2 * moves, 2) if work.sequence else (adds, 1)
    leave, leaves = (moves, 1) if work.sequence else (adds, 1)
    forward, forward_calls = 2 * work.layers * edge, 2 * work.layers * edges
    backward, backward_calls = forward, forward_calls
    loss = loss_calls = 0
    if work.first and work.cuts_vocabulary:
        forward, forward_calls = forward + leave, forward_calls + leaves
    if work.first and work.sequence:
        backward, backward_calls = backward + moves, backward_calls + 1
    if work.last and work.sequence:
        forward, forward_calls = forward + moves, forward_calls + 1
    if work.last and work.cuts_vocabulary:
        backward, backward_calls = backward + leave, backward_calls + leaves
        loss, loss_calls = 3 * all_reduce(4 * work.tokens, ranks), 2
    if not training:
        return [Traffic(axis="model", what="activations", bytes=forward + loss, calls=forward_calls + loss_calls)]
    again = 2 if work.stages > 1 and not work.last else 1
    total, calls = again * forward + backward + loss, again * forward_calls + backward_calls + loss_calls
    found = [Traffic(axis="model", what="activations", bytes=micro_steps * total, calls=micro_steps * calls)]
    if work.sequence:
        size = 4 * hidden_size * (2 * work.layers + work.last)
        found.append(Traffic(axis="model", what="gradients of norms", bytes=all_reduce(size, ranks), calls=1))
    return found


def data_traffic(work: RankWork, ranks: int, *, whole: int, cut: int, groups: int) -> list[Traffic]:
    """Once per step, float32: gradients of weights whose moments are whole are added, those of the others are scattered by
    rows and the updated rows gathered (ZeRO stage 1, arXiv 1910.02054).

    Args:
        work: the device.
        ranks: of the data axis.
        whole: elements of weights whose moments are whole.
        cut: elements of weights whose moments are cut.
        groups: `gradient_aggregation_group`, collectives for one kind.
    """
    if ranks == 1:
        return []
    moves = gather(4 * cut, ranks, by_adding=work.facts.gathers_by_adding)
    found = [Traffic(axis="data", what="gradients", bytes=all_reduce(4 * whole, ranks), calls=1 if cut else groups)] if whole else []
    if cut:
        found.append(Traffic(axis="data", what="gradients to their rows", bytes=moves, calls=groups))
        found.append(Traffic(axis="data", what="updated rows", bytes=moves, calls=groups))
    return found


def stage_traffic(work: RankWork, micro_steps: int) -> list[Traffic]:
    """Per micro batch hidden states forward (not on the last stage) and their gradient back (not on the first)."""
    sends = (not work.last) + (not work.first)
    if not sends:
        return []
    return [Traffic(axis="stage", what="hidden states", bytes=micro_steps * sends * work.boundary, calls=micro_steps * sends)]
