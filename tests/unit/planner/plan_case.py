"""Configurations and layouts for the planner's tests."""

from dataclasses import replace
from pathlib import Path

from mindformers_codellama.config.read import read_run
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.planner.candidates import with_layout
from mindformers_codellama.planner.devices import GIB, Servers
from mindformers_codellama.planner.plan import make_plan, plan_layout

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "codellama"


def shipped(name, *overrides):
    return read_run(CONFIGS / f"{name}.yaml", overrides=list(overrides))


def layout(text):
    data, model, stages = map(int, text.split("x"))
    return Layout(data_parallel=data, model_parallel=model, pipeline_stage=stages)


def plan(run, ranks, *, memory=64 * GIB, per_server=8, asked=None):
    asked = layout(asked) if asked else None
    return make_plan(run, ranks, device_memory=memory, servers=Servers.of_size(ranks, per_server), asked=asked)


def at(run, text, *, memory=64 * GIB):
    """The plan of one layout, rows per step kept."""
    degrees = layout(text)
    changed = with_layout(run, degrees)
    assert changed is not None, text
    return plan_layout(changed, degrees, device_memory=memory, servers=Servers.of_size(degrees.ranks, 8))


def without_recompute(run):
    return replace(run, recompute_config=replace(run.recompute_config, recompute=False))
