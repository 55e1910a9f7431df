"""How long a step takes, roughly, and how much of it stages wait: the rule layouts are ranked by.

A micro batch on a stage takes its multiplications at the device's rate, plus what it sends over the model and stage axes at the
link's bandwidth and latency; nothing is hidden behind anything else. A step is the slowest stage's micro batch times
`micro steps + stages - 1` (the bubble of 1F1B, arXiv 2104.04473), plus the exchange over the data axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mindformers_codellama.layout.ranks import AXES, Layout
from mindformers_codellama.planner.devices import DeviceFacts, Servers
from mindformers_codellama.planner.rank_work import RankWork
from mindformers_codellama.planner.traffic import Traffic
from mindformers_codellama.planner.weights import StageWeights


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Estimated seconds of one step (or of one token in generation)."""

    seconds: float
    compute: float
    """Of the slowest stage, all micro batches."""
    communication: float
    """Of the slowest stage, all axes."""
    bubble: float
    """Share of the step in which a stage waits for others, `(stages - 1) / (micro steps + stages - 1)`."""


def bubble_share(stages: int, micro_steps: int) -> float:
    """`(p - 1) / (m + p - 1)` of 1F1B."""
    return (stages - 1) / (micro_steps + stages - 1)


def forward_flops(work: RankWork, weights: StageWeights, head_tokens: int, *, keys: int, head: int) -> float:
    """Two per weight of a matrix and token, and 4 Q T for scores and mixed values (the mask saves nothing); the head for
    `head_tokens` tokens only.
    """
    matrices = weights.matrices - (head if work.last else 0)
    attention = 4 * work.queries * keys * work.layers
    return 2.0 * matrices * work.tokens + attention + (2.0 * head * head_tokens if work.last else 0.0)


def training_factor(work: RankWork) -> float:
    """Forwards that a micro batch costs: 3 with its backward, one more when a pipeline computes it again (not the last stage)
    and one more when blocks do (a half where only the matrices before the communication do).
    """
    again = 1.0 if work.stages > 1 and not work.last else 0.0
    repeated = (1.0 if work.degree == 1 else 0.5) if work.recompute else 0.0
    return 3.0 + again + repeated


def step_cost(layout: Layout, facts: DeviceFacts, servers: Servers, *, flops: Sequence[float], traffic: Sequence[Sequence[Traffic]],
              micro_steps: int) -> StepCost:  # fmt: skip
    """The estimate.

    Args:
        layout: the degrees.
        facts: rates of the device.
        servers: who is near whom.
        flops: of one micro batch on each stage.
        traffic: of one step on each stage.
        micro_steps: micro batches per step.
    """
    near = {axis: servers.is_near(layout, axis) for axis in AXES}

    def seconds(found: Sequence[Traffic], axes: tuple[str, ...]) -> float:
        return sum(
            item.bytes / (facts.near_bandwidth if near[item.axis] else facts.far_bandwidth) + item.calls * facts.latency
            for item in found
            if item.axis in axes
        )

    computing = [count * micro_steps / facts.flops for count in flops]
    talking = [seconds(found, ("model", "stage")) for found in traffic]
    slowest = max(range(len(computing)), key=lambda stage: computing[stage] + talking[stage])
    busy = computing[slowest] + talking[slowest]
    once = max(seconds(found, ("data",)) for found in traffic)
    filled = busy * (micro_steps + layout.pipeline_stage - 1) / micro_steps
    return StepCost(
        seconds=filled + once,
        compute=computing[slowest],
        communication=talking[slowest] + once,
        bubble=bubble_share(layout.pipeline_stage, micro_steps),
    )
