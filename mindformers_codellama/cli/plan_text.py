"""A plan as lines for a person, and as plain values for `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.planner.devices import GIB, MIB
from mindformers_codellama.planner.memory import StageMemory
from mindformers_codellama.planner.plan import LayoutPlan, Plan, needed
from mindformers_codellama.planner.rank_work import TRAINING_MODES
from mindformers_codellama.planner.traffic import Traffic

COLUMNS = ("parameters", "gradients", "optimizer", "activations", "kv_cache", "buffers", "peak")
ORIGINS = {"file": "as in the file", "asked": "as asked", "search": "found by search, the file has another number of ranks"}


def as_json(plan: Plan) -> dict[str, Any]:
    """Every number of a plan; sizes in bytes, times in seconds."""
    chosen = plan.chosen
    return {
        "run_mode": chosen.run.run_mode,
        "device": chosen.run.context.device_target,
        "device_memory": plan.device_memory,
        "ranks": plan.ranks,
        "origin": plan.origin,
        "fits": chosen.fits,
        "limits": list(chosen.limits),
        "notes": list(plan.notes),
        **_layout_json(chosen),
        "stages": [_stage_json(chosen, stage, plan) for stage in chosen.stages],
        "communication": [
            {"stage": stage.stage, **vars(item)} for stage, found in zip(chosen.stages, chosen.traffic, strict=True) for item in found
        ],
        "alternatives": [_layout_json(item) for item in plan.alternatives],
        "fits_from_ranks": plan.fits_from,
    }


def _layout_json(plan: LayoutPlan) -> dict[str, Any]:
    layout, rows = plan.layout, plan.rows
    return {
        "layout": {
            "data_parallel": layout.data_parallel,
            "model_parallel": layout.model_parallel,
            "pipeline_stage": layout.pipeline_stage,
        },
        "changes": list(plan.changes),
        "rows": {"micro_batch": rows.rows, "micro_batches": rows.micro_steps, "step": rows.step_rows},
        "peak": plan.peak,
        "step_seconds": round(plan.cost.seconds, 4),
        "bubble": round(plan.cost.bubble, 6),
    }


def _stage_json(plan: LayoutPlan, memory: StageMemory, whole: Plan) -> dict[str, Any]:
    first = plan.layout.rank(memory.stage, 0, 0)
    return {
        "stage": memory.stage,
        "ranks": [first, first + plan.layout.stage_ranks - 1],
        "layers": memory.layers,
        "elements": memory.weights.elements,
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "kv_cache": memory.kv_cache,
        "buffers": {**memory.lasting, **memory.passing, **memory.updating, "communication groups": memory.groups},
        "peak": memory.peak,
        "needed": needed(memory, plan.run.context.device_target, whole.device_memory),
    }


def as_text(plan: Plan) -> list[str]:
    """The plan for a person: sizes per rank in GiB (or MiB when all are small)."""
    chosen = plan.chosen
    run = chosen.run
    name = run.trainer.model_name
    known = f" ({name})" if name in FAMILIES else ""
    verdict = "fits" if chosen.fits else "does not fit"
    ranks = "1 rank" if plan.ranks == 1 else f"{plan.ranks} ranks"
    lines = [
        f"  {run.run_mode}{known} on {ranks} of {run.context.device_target} with {plan.device_memory / GIB:.1f} GiB each",
        f"  layout    {chosen.layout} (data x model x stage), {ORIGINS[plan.origin]}: {verdict}",
        *_changes(chosen),
        *_rows(chosen),
        "",
        *_memory_table(plan),
        "",
        *_traffic_lines(chosen),
        *_cost_lines(chosen),
    ]
    for title, items in (("limits broken", chosen.limits), ("notes", plan.notes)):
        lines += [f"{title}:", *(f"  {number}. {item}" for number, item in enumerate(items, 1))] if items else []
    return [*lines, *_alternative_lines(plan)]


def _changes(plan: LayoutPlan) -> list[str]:
    return [f"            with {', '.join(plan.changes)}"] if plan.changes else []


def _rows(plan: LayoutPlan) -> list[str]:
    if plan.run.run_mode not in TRAINING_MODES:
        return []
    rows = plan.rows
    parts = f" in {rows.parts} parts" if rows.parts > 1 else ""
    return [f"  rows      {rows.step_rows} per step: {rows.data_ranks} x {rows.micro_steps} micro batches of {rows.rows}{parts}"]


def _memory_table(plan: Plan) -> list[str]:
    """Stages with equal numbers share a line."""
    chosen = plan.chosen
    unit, name = (GIB, "GiB") if chosen.peak >= GIB else (MIB, "MiB")

    def values(memory: StageMemory) -> tuple[int, ...]:
        return (memory.layers, *(int(getattr(memory, column)) for column in COLUMNS))

    rows = [["stage", "ranks", "layers", *(column.replace("_", " ") for column in COLUMNS)]]
    for _, alike in groupby(chosen.stages, key=values):
        group = list(alike)
        first, last = group[0].stage, group[-1].stage
        start, end = chosen.layout.rank(first, 0, 0), chosen.layout.rank(last, 0, 0) + chosen.layout.stage_ranks - 1
        layers, *sizes = values(group[0])
        rows.append([_span(first, last), _span(start, end), str(layers), *(f"{size / unit:.2f}" for size in sizes)])
    lines = [f"  bytes per rank, {name}; peak is the most at one time, less than the sum", *_table(rows)]
    worst = max(chosen.stages, key=lambda memory: memory.peak)
    buffers = {**worst.lasting, **worst.passing, **worst.updating, "communication groups": worst.groups}
    inside = ", ".join(f"{what} {size / unit:.2f}" for what, size in buffers.items() if size)
    return [*lines, f"  buffers of stage {worst.stage}: {inside}"] if inside else lines


def _traffic_lines(plan: LayoutPlan) -> list[str]:
    """Of the stage that sends most on each axis."""
    if not any(plan.traffic):
        return ["  no communication"]
    unit, name = (GIB, "GiB") if max(item.bytes for stage in plan.traffic for item in stage) >= GIB else (MIB, "MiB")
    rows = [["axis", "what", "sent per rank", "collectives"]]
    for axis in ("data", "model", "stage"):
        found = [[item for item in stage if item.axis == axis] for stage in plan.traffic]
        most: Sequence[Traffic] = max(found, key=lambda items: sum(item.bytes for item in items))
        rows += [[axis, item.what, f"{item.bytes / unit:.2f} {name}", str(item.calls)] for item in most]
    what = "step" if plan.run.run_mode in TRAINING_MODES else "forward pass"
    return [f"  communication per {what}, of the stage that sends most", *_table(rows)]


def _cost_lines(plan: LayoutPlan) -> list[str]:
    cost = plan.cost
    what = "step" if plan.run.run_mode in TRAINING_MODES else "forward pass"
    return [
        f"  {what:<9} about {cost.seconds:.3g} s (computing {cost.compute:.3g}, communicating {cost.communication:.3g}), "
        f"bubble {100 * cost.bubble:.1f} %; rough, to rank layouts by"
    ]


def _alternative_lines(plan: Plan) -> list[str]:
    if plan.alternatives:
        rows = [["layout", "peak", "seconds", "bubble", "micro batches", "with"]]
        for item in plan.alternatives:
            changes = ", ".join(item.changes) or "-"
            micro = str(item.rows.micro_steps)
            peak, seconds, bubble = f"{item.peak / GIB:.1f} GiB", f"{item.cost.seconds:.3g}", f"{100 * item.cost.bubble:.1f} %"
            rows.append([str(item.layout), peak, seconds, bubble, micro, changes])
        ranking = "those that leave a tenth of the device first, then by estimated seconds"
        return [f"other layouts that fit ({ranking}):", *_table(rows)]
    if plan.chosen.fits:
        return []
    if plan.fits_from:
        return [f"no layout of {plan.ranks} ranks fits; {plan.fits_from} ranks do: codellama plan ... --ranks {plan.fits_from}"]
    return [f"no layout of {plan.ranks} ranks fits, nor of 2, 4 or 8 times as many."]


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = {"with", "what", "axis", "layout"}
    left = [title in texts for title in rows[0]]
    return [
        "    "
        + "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width) for cell, width, is_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]
