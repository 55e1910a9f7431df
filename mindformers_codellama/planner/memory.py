"""Bytes on one rank of a stage, by what they are for, and how much of it is there at the same time."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.layout.cuts import STATE_BYTES, ModelLayout
from mindformers_codellama.planner.activations import forward_activations, pipeline_boundary, training_activations
from mindformers_codellama.planner.caches import Caches, cache_plan, cache_tables
from mindformers_codellama.planner.devices import DEVICES
from mindformers_codellama.planner.index_tables import forward_tables, training_tables
from mindformers_codellama.planner.rank_work import TRAINING_MODES, RankWork, StepRows, plans_kernels, rank_work, trains_by_hand
from mindformers_codellama.planner.weights import StageWeights, stage_weights


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Bytes on each rank of one stage."""

    stage: int
    layers: int
    """Layers of the stage."""
    weights: StageWeights
    parameters: int
    """Weights in `param_init_type`, norms in float32."""
    gradients: int
    """One gradient per weight, in its type; twice that when a micro batch has parts. 0 without training."""
    optimizer: int
    """`adam_m` and `adam_v`, float32, as this rank holds them."""
    activations: int
    """The most a micro batch needs."""
    kv_cache: int
    """Keys and values of generation."""
    lasting: dict[str, int] = field(default_factory=dict)
    """Buffers that are there all the time."""
    passing: dict[str, int] = field(default_factory=dict)
    """Buffers of the forward and backward of a micro batch."""
    updating: dict[str, int] = field(default_factory=dict)
    """Buffers of the update."""
    groups: int = 0
    """Buffers of communication groups, outside of MindSpore's own memory."""
    keeps_gradients: bool = False
    """Gradients live until the update, because nothing accumulates them."""
    adds_parts: bool = False
    """Gradients of a part of the micro batch are there while the next one is computed."""

    @property
    def buffers(self) -> int:
        """All buffers; not all are there at the same time."""
        return sum(self.lasting.values()) + sum(self.passing.values()) + sum(self.updating.values()) + self.groups

    @property
    def peak(self) -> int:
        """The most at one time, communication groups aside.

        Weights, moments, caches and lasting buffers, and the larger of two moments: in a micro batch, activations
        or gradients (the backward frees the ones as it makes the others), and in the update its workspace.
        """
        lasting = self.parameters + self.optimizer + self.kv_cache + sum(self.lasting.values())
        backward = self.activations + self.gradients if self.adds_parts else max(self.activations, self.gradients)
        in_step = backward + sum(self.passing.values())
        in_update = (self.gradients if self.keeps_gradients else 0) + sum(self.updating.values())
        return lasting + max(in_step, in_update)


def stage_memory(run: RunConfig, where: ModelLayout, stage: int, rows: StepRows) -> StageMemory:
    """The bytes of the ranks of a stage.

    Args:
        run: types and switches.
        where: the layout.
        stage: which stage.
        rows: how the rows of a step are dealt (training and evaluation).
    """
    weights, facts = stage_weights(where, stage), DEVICES[run.context.device_target]
    axes = sum(degree > 1 for degree in (where.layout.data_parallel, where.layout.model_parallel, where.layout.pipeline_stage))
    alone = where.layout.ranks == 1
    groups = 0 if alone else facts.group_bytes * (axes + (axes > 1))
    graph, layer_graph = facts.graph_bytes, facts.layer_graph_bytes
    if plans_kernels(run):
        graph, layer_graph = facts.kernel_graph_bytes, facts.kernel_layer_graph_bytes
    if trains_by_hand(run, where):
        graph, layer_graph = facts.by_hand_bytes, 0
    runtime = facts.process_bytes + (0 if alone else facts.rank_bytes) + graph + layer_graph * len(where.layers[stage])
    if run.run_mode in TRAINING_MODES:
        return _training(run, where, stage, rows, weights=weights, groups=groups, runtime=runtime)
    config = where.config
    lasting: dict[str, int] = {"runtime": runtime} if runtime else {}
    cache = 0
    if run.run_mode == "eval":
        work = rank_work(run, where, stage, rows=rows.rows, queries=config.seq_length, keys=config.seq_length)
        activations = forward_activations(work, every_position=True)
        tables = forward_tables(work) if facts.keeps_index_tables else 0
    else:
        caches = cache_plan(run, where)
        work = caches.largest(run, where, stage)
        activations = forward_activations(work, every_position=False) + _logits(work, caches)
        cache = caches.bytes(work)
        tables = cache_tables(run, where, stage, caches) if facts.keeps_index_tables else 0
    if tables:
        lasting["index tables"] = tables
    casts = _casts(work, weights)
    return StageMemory(
        stage=stage,
        layers=work.layers,
        weights=weights,
        parameters=_parameter_bytes(work, weights),
        gradients=0,
        optimizer=0,
        activations=activations,
        kv_cache=cache,
        lasting=lasting,
        passing={"weights in the compute type": casts} if casts else {},
        groups=groups,
    )


def _training(
    run: RunConfig, where: ModelLayout, stage: int, rows: StepRows, *, weights: StageWeights, groups: int, runtime: int
) -> StageMemory:
    """Training: accumulated gradients, the boundary of a pipeline, and the workspace of the update."""
    layout, length = where.layout, where.config.seq_length
    in_pipeline = layout.pipeline_stage > 1
    parts = 1 if in_pipeline else rows.parts
    work = rank_work(run, where, stage, rows=-(-rows.rows // parts), queries=length, keys=length)
    accumulates = rows.micro_steps > 1 or in_pipeline
    lasting = {
        "runtime": runtime + exchange_graphs(work, weights, layout.data_parallel),
        "accumulated gradients": STATE_BYTES * weights.elements if accumulates else 0,
        "index tables": training_tables(work, alone=layout.ranks == 1, micro_steps=rows.micro_steps) * parts,
    }
    passing = {"pipeline boundary": pipeline_boundary(work, rows.micro_steps), "weights in the compute type": _casts(work, weights)}
    updating = {"update": update_bytes(work, weights, layout.data_parallel, groups=_aggregation(run), alone=layout.ranks == 1)}
    casts_gradients = not accumulates and layout.ranks > 1 and work.param != STATE_BYTES
    if casts_gradients:  # each replaces its gradient as soon as that is there, and all wait for the last
        updating["gradients in float32"] = STATE_BYTES * weights.elements
    gradients = _parameter_bytes(work, weights)
    return StageMemory(
        stage=stage,
        layers=work.layers,
        weights=weights,
        parameters=gradients,
        gradients=2 * gradients if parts > 1 else gradients,
        optimizer=STATE_BYTES * weights.moments,
        activations=training_activations(work),
        kv_cache=0,
        lasting={name: size for name, size in lasting.items() if size},
        passing={name: size for name, size in passing.items() if size},
        updating=updating,
        groups=groups,
        keeps_gradients=not accumulates and not casts_gradients,
        adds_parts=parts > 1,
    )


def update_bytes(work: RankWork, weights: StageWeights, data_ranks: int, *, groups: int, alone: bool) -> int:
    """Workspace of the update, float32 (train/reduce.py, train/optimizer.py).

    Over the data axis: sums of the gradients (own rows only where moments are cut), and two copies of one of `groups`
    buffers while it travels. With cut moments the updated rows as well, and of one buffer of them what is sent, what
    arrives and the whole weights in it; buffers are taken to be used up one after the other. In any case three of the
    largest weight: scaled, squared, updated; none by the C++ kernels.
    """
    temporaries = 0 if work.kernels and not weights.cut else 3 * STATE_BYTES * weights.largest
    if alone or data_ranks == 1:
        return temporaries
    whole, cut = weights.elements - weights.cut, weights.cut
    sums = STATE_BYTES * (whole + cut // data_ranks)
    travelling = 2 * STATE_BYTES * max(whole // (1 if cut else groups), cut // groups)
    spread = STATE_BYTES * (cut // data_ranks + 3 * cut // groups)
    return sums + max(travelling, spread, temporaries)


def exchange_graphs(work: RankWork, weights: StageWeights, data_ranks: int) -> int:
    """Graphs that bring gradients together (train/reduce.py): one for norms with a cut stream, one over the data axis; with
    cut moments two and a half, because rows are updated in plain operators and travel back.
    """
    halves = 2 * work.sequence + ((5 if weights.cut else 2) if data_ranks > 1 else 0)
    return halves * work.facts.exchange_graph_bytes * weights.tensors // 2


def _parameter_bytes(work: RankWork, weights: StageWeights) -> int:
    return work.param * (weights.elements - weights.float32) + STATE_BYTES * weights.float32


def _casts(work: RankWork, weights: StageWeights) -> int:
    """Matrices held in another type than they compute in are cast once per graph: one more copy."""
    return work.compute * weights.matrices if work.param != work.compute else 0


def _logits(work: RankWork, caches: Caches) -> int:
    """float32 logits of one position per row, and the compute type's."""
    return (4 + work.compute) * caches.rows * work.logits // max(work.tokens, 1) if work.last else 0


def _aggregation(run: RunConfig) -> int:
    return run.parallel_config.gradient_aggregation_group
