"""The plan of a run on a number of ranks: what every rank holds and sends, whether it fits, and what else would."""

from __future__ import annotations

from dataclasses import dataclass, field

from mindformers_codellama.config.check_layout import layout_findings
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import ClusterError, raise_all
from mindformers_codellama.layout.cuts import ModelLayout, run_layout, run_model_layout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.planner.caches import cache_plan
from mindformers_codellama.planner.candidates import candidate_runs, with_layout, with_savings
from mindformers_codellama.planner.devices import DEVICES, GIB, Servers, parse_memory
from mindformers_codellama.planner.memory import StageMemory, stage_memory
from mindformers_codellama.planner.rank_work import TRAINING_MODES, RankWork, StepRows, rank_work, step_rows
from mindformers_codellama.planner.step_cost import StepCost, forward_flops, step_cost, training_factor
from mindformers_codellama.planner.traffic import Traffic, data_traffic, model_traffic, stage_traffic

MOST_ALTERNATIVES = 5
ROOMY = 0.9
"""Share of a device above which a layout is ranked behind those that leave more: nothing is exact to a tenth."""
UNCOUNTABLE = ("parallel_config.model_parallel", "parallel_config.use_seq_parallel", "model.model_config.offset")
"""Keys whose findings leave no ranks to count bytes of; others are told beside the numbers."""
MOST_DOUBLINGS = 3
"""How many times as many ranks are tried (2, 4, 8) when nothing fits."""


@dataclass(frozen=True, kw_only=True)
class LayoutPlan:
    """One layout of a run."""

    run: RunConfig
    """In this layout."""
    layout: Layout
    rows: StepRows
    stages: tuple[StageMemory, ...]
    traffic: tuple[tuple[Traffic, ...], ...]
    """Of each of `stages`."""
    cost: StepCost
    limits: tuple[str, ...]
    """What stands against it; empty when it fits."""
    changes: tuple[str, ...] = ()
    """Keys that differ from the run planned for, degrees aside."""

    @property
    def fits(self) -> bool:
        """Nothing stands against it."""
        return not self.limits

    @property
    def peak(self) -> int:
        """Bytes of the rank that needs most."""
        return max(stage.peak for stage in self.stages)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer of `make_plan`."""

    ranks: int
    device_memory: int
    """Bytes of one rank's device."""
    chosen: LayoutPlan
    origin: str
    """`file`, `asked` or `search`: where the layout comes from."""
    alternatives: tuple[LayoutPlan, ...]
    """Others that fit, ranked as `search` does."""
    fits_from: int | None
    """When nothing fits: 2, 4 or 8 times as many ranks with which something does."""
    notes: tuple[str, ...] = field(default=())


def make_plan(run: RunConfig, ranks: int, *, device_memory: int, servers: Servers, asked: Layout | None = None) -> Plan:
    """Plan a run.

    Args:
        run: the configuration.
        ranks: how many ranks there are, at least 1.
        device_memory: bytes of one rank's device.
        servers: where the ranks are.
        asked: a layout to plan instead of the file's.

    Raises:
        ClusterError: no layout of this model has so many ranks, or `asked` does not.
    """
    own = run_layout(run)
    start, origin = None, "search"
    if asked is not None:
        if asked.ranks != ranks:
            raise ClusterError("--layout", f"{asked} has {asked.ranks} ranks, there are {ranks}.")
        start, origin = with_layout(run, asked) if asked != own else run, "asked"
        if start is None:
            raise ClusterError("--layout", _undealt(run, asked), fix="change runner_config.batch_size or the micro batches.")
    elif own.ranks == ranks:
        start, origin = run, "file"
    found = search(run, ranks, device_memory=device_memory, servers=servers)
    fitting = [plan for plan in found if plan.fits]
    if start is not None:
        chosen = plan_layout(start, run_layout(start), device_memory=device_memory, servers=servers)
    elif found:
        best = fitting[0] if fitting else min(found, key=lambda plan: plan.peak)
        chosen = plan_layout(best.run, best.layout, device_memory=device_memory, servers=servers, changes=best.changes)
    else:
        raise ClusterError("--ranks", _impossible(run, ranks))
    others = tuple(plan for plan in fitting if (plan.layout, plan.changes) != (chosen.layout, chosen.changes))
    fits_from = None
    if not chosen.fits and not others:
        fits_from = _more_ranks(run, ranks, device_memory)
    return Plan(
        ranks=ranks,
        device_memory=device_memory,
        chosen=chosen,
        origin=origin,
        alternatives=others[:MOST_ALTERNATIVES],
        fits_from=fits_from,
        notes=tuple(_notes(chosen, servers)),
    )


def search(run: RunConfig, ranks: int, *, device_memory: int, servers: Servers) -> list[LayoutPlan]:
    """Every layout of so many ranks, with the fewest switches changed that make it fit.

    Those that leave a tenth of the device come first; among them, and after them, the fastest by `step_cost`.
    """
    found = []
    for layout, changed in candidate_runs(run, ranks):
        plan = plan_layout(changed, layout, device_memory=device_memory, servers=servers, every_stage=False)
        if not plan.fits:
            for changes, saving in with_savings(changed, layout):
                plan = plan_layout(saving, layout, device_memory=device_memory, servers=servers, changes=changes, every_stage=False)
                if plan.fits:
                    break
        found.append(plan)
    device = run.context.device_target

    def is_tight(plan: LayoutPlan) -> bool:
        return any(needed(stage, device, device_memory) > ROOMY * device_memory for stage in plan.stages)

    return sorted(found, key=lambda plan: (is_tight(plan), plan.cost.seconds, len(plan.changes), plan.peak))


def plan_layout(
    run: RunConfig,
    layout: Layout,
    *,
    device_memory: int,
    servers: Servers,
    changes: tuple[str, ...] = (),
    every_stage: bool = True,
) -> LayoutPlan:
    """One layout.

    Args:
        run: in this layout.
        layout: its degrees.
        device_memory: bytes of one rank's device.
        servers: where the ranks are.
        changes: what was changed on the way.
        every_stage: False takes, of stages with the same layers and edges, the one that holds most micro batches.

    Raises:
        ClusterError: degrees that do not divide what they cut.
    """
    errors = layout_findings(run)
    raise_all(ClusterError(error.where, error.problem, fix=error.fix) for error in errors if error.where in UNCOUNTABLE)
    if layout.pipeline_stage > run.model.config.num_layers:
        raise_all(ClusterError(error.where, error.problem, fix=error.fix) for error in errors)
    where = run_model_layout(run, layout)
    rows = step_rows(run, (layout.data_parallel, layout.model_parallel, layout.pipeline_stage))
    stages = range(layout.pipeline_stage) if every_stage else _unlike_stages(where)
    memories = tuple(stage_memory(run, where, stage, rows) for stage in stages)
    works = [_work(run, where, stage, rows) for stage in stages]
    traffic = tuple(_traffic(run, where, work, memory, rows) for work, memory in zip(works, memories, strict=True))
    flops = [_flops(run, work, memory) for work, memory in zip(works, memories, strict=True)]
    micro = rows.micro_steps if run.run_mode in TRAINING_MODES else 1
    cost = step_cost(layout, DEVICES[run.context.device_target], servers, flops=flops, traffic=traffic, micro_steps=micro)
    limits = (*map(str, errors), *_memory_limits(run, memories, device_memory))
    return LayoutPlan(run=run, layout=layout, rows=rows, stages=memories, traffic=traffic, cost=cost, limits=limits, changes=changes)


def needed(memory: StageMemory, device: str, device_memory: int) -> int:
    """Bytes of a device that a rank needs: its peak, and what MindSpore leaves to others, communication groups among them."""
    return memory.peak + max(int(DEVICES[device].reserved_share * device_memory), memory.groups)


def _memory_limits(run: RunConfig, memories: tuple[StageMemory, ...], device_memory: int) -> list[str]:
    device = run.context.device_target
    over = [memory for memory in memories if needed(memory, device, device_memory) > device_memory]
    if not over:
        return []
    worst = max(over, key=lambda memory: memory.peak)
    kept = needed(worst, device, device_memory) - worst.peak
    left = f" and {kept / GIB:.1f} GiB are left to the system and communication" if kept else ""
    need = f"stage {worst.stage} needs {worst.peak / GIB:.1f} GiB on each rank{left}"
    return [f"device memory: {need}; a device has {device_memory / GIB:.1f} GiB."]


def _work(run: RunConfig, where: ModelLayout, stage: int, rows: StepRows) -> RankWork:
    """One micro batch; in generation one token of every row over the longest cache."""
    length = where.config.seq_length
    if run.run_mode in (*TRAINING_MODES, "eval"):
        return rank_work(run, where, stage, rows=rows.rows, queries=length, keys=length)
    caches = cache_plan(run, where)
    longest = caches.lengths[-1]
    return rank_work(run, where, stage, rows=caches.rows, queries=1 if caches.use_past else longest, keys=longest)


def _traffic(run: RunConfig, where: ModelLayout, work: RankWork, memory: StageMemory, rows: StepRows) -> tuple[Traffic, ...]:
    training, weights = run.run_mode in TRAINING_MODES, memory.weights
    micro = rows.micro_steps if training else 1
    found = model_traffic(work, micro, training=training, hidden_size=where.config.hidden_size)
    if training:
        groups = run.parallel_config.gradient_aggregation_group
        found += data_traffic(
            work, where.layout.data_parallel, whole=weights.elements - weights.cut, cut=weights.cut, groups=groups
        ) + stage_traffic(work, micro)
    return tuple(found)


def _flops(run: RunConfig, work: RankWork, memory: StageMemory) -> float:
    config = run.model.config
    keys = work.scores * work.degree // (work.tokens * config.num_heads)
    training = run.run_mode in TRAINING_MODES
    every = training or run.run_mode == "eval"
    head = config.hidden_size * work.logits // work.tokens if work.last else 0
    head_tokens = work.tokens if every else 1
    count = forward_flops(work, memory.weights, head_tokens, keys=keys, head=head)
    return count * (training_factor(work) if training else 1.0)


def _unlike_stages(where: ModelLayout) -> list[int]:
    """The first of the stages that have equally many layers and the same edges; it has the most micro batches in flight."""
    last = where.layout.pipeline_stage - 1
    found: dict[tuple[int, bool, bool], int] = {}
    for stage, layers in enumerate(where.layers):
        found.setdefault((len(layers), stage == 0, stage == last), stage)
    return list(found.values())


def _more_ranks(run: RunConfig, ranks: int, device_memory: int) -> int | None:
    per_server = ranks if run.context.device_target == "CPU" else 8
    for doubling in range(1, MOST_DOUBLINGS + 1):
        more = ranks * 2**doubling
        if any(plan.fits for plan in search(run, more, device_memory=device_memory, servers=Servers.of_size(more, per_server))):
            return more
    return None


def _undealt(run: RunConfig, layout: Layout) -> str:
    own = run_layout(run)
    total = step_rows(run, (own.data_parallel, own.model_parallel, own.pipeline_stage)).step_rows
    return (
        f"{total} rows per step cannot be dealt over {layout.data_parallel} data ranks in at least {layout.pipeline_stage} micro batches."
    )


def _impossible(run: RunConfig, ranks: int) -> str:
    config, own = run.model.config, run_layout(run)
    total = step_rows(run, (own.data_parallel, own.model_parallel, own.pipeline_stage)).step_rows
    if run.run_mode in TRAINING_MODES:
        reason = f"pipeline_stage at most num_layers ({config.num_layers}), data_parallel a divisor of the step's {total} rows"
    else:
        reason = "pipeline_stage 1"
    return f"no layout of this model has {ranks} ranks: model_parallel must divide n_kv_heads ({config.num_kv_heads}), {reason}."


def _notes(plan: LayoutPlan, servers: Servers) -> list[str]:
    run = plan.run
    found = []
    if run.engine == "mindformers":
        found.append("engine: mindformers: the numbers are those of the native engine; MindFormers keeps and sends other things.")
    if run.context.device_target == "Ascend":
        limit = parse_memory(run.context.max_device_memory, where="context.max_device_memory")
        if plan.peak > limit:
            found.append(
                f"context.max_device_memory: {run.context.max_device_memory} is less than the {plan.peak / GIB:.1f} GiB planned; "
                f"write at least {-(-plan.peak // GIB)}GB."
            )
        found.append("nothing here was measured on Ascend.")
    elif run.recompute_config.recompute:
        found.append("recompute_config.recompute: costs memory on the CPU, see docs/scaling.md.")
    if plan.layout.model_parallel > 1 and not servers.is_near(plan.layout, "model"):
        found.append("model_parallel: its ranks are on several servers, where links are slower.")
    return found
