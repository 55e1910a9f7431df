"""One forward, one backward (arXiv 2104.04473): what each stage of a pipeline does, in which order.

Stage s of p first runs `p - 1 - s` forwards, so that the last stage can begin its backwards; from then on every forward
is followed by a backward, and at most `p - s` micro batches are in flight. Where two neighbours have something for
each other at the same moment, stages with an even number send first and those with an odd number receive first: no
send has to be taken up in the background for the schedule to come to its end.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["forward", "backward", "send_forward", "send_backward", "receive_forward", "receive_backward"]


class Action(NamedTuple):
    """One thing a stage does for one micro batch.

    `send_forward` and `receive_forward` carry hidden states to the next stage, `send_backward` and `receive_backward`
    their gradients to the one before.
    """

    kind: Kind
    micro: int
    """Number of the micro batch, from 0."""


def one_forward_one_backward(stage: int, stages: int, micro_batches: int) -> list[Action]:
    """The actions of one stage, in order.

    Args:
        stage: in [0, stages).
        stages: at least 1.
        micro_batches: at least `stages`.
    """
    assert 0 <= stage < stages <= micro_batches, (stage, stages, micro_batches)
    first, last = stage == 0, stage == stages - 1
    ahead = stages - 1 - stage
    actions: list[Action] = []

    def add(*found: tuple[Kind, int, bool]) -> None:
        actions.extend(Action(kind, micro) for kind, micro, wanted in found if wanted)

    def exchange(sent: tuple[Kind, int, bool], received: tuple[Kind, int, bool]) -> None:
        add(*((sent, received) if stage % 2 == 0 else (received, sent)))

    add(("receive_forward", 0, not first))
    for micro in range(ahead):
        add(("forward", micro, True), ("send_forward", micro, True), ("receive_forward", micro + 1, not first))
    for done in range(micro_batches - ahead):
        micro = ahead + done
        more = micro + 1 < micro_batches
        add(("forward", micro, True))
        exchange(("send_forward", micro, not last), ("receive_backward", done, not last))
        add(("backward", done, True))
        exchange(("send_backward", done, not first), ("receive_forward", micro + 1, not first and more))
    for micro in range(micro_batches - ahead, micro_batches):
        add(("receive_backward", micro, True), ("backward", micro, True), ("send_backward", micro, not first))
    return actions
