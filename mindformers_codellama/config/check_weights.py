"""Rules about the key `weights`: packed weights predict and evaluate, in one process on the CPU; integers are exported too."""

from __future__ import annotations

from collections.abc import Iterator

from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.config.weight_forms import EXPORTED_FORMS, PACKED_FORMS
from mindformers_codellama.errors import CodeLlamaError, ConfigError


def weights_findings(run: RunConfig) -> Iterator[CodeLlamaError]:
    """Where the packed weights a run asks for cannot be used."""
    form = run.weights
    if form not in PACKED_FORMS or run.engine != "native":
        return
    exported = run.run_mode == "export" and form in EXPORTED_FORMS
    if run.run_mode not in ("eval", "predict") and not exported:
        problem = f"got {form!r}, but run_mode {run.run_mode} needs floating-point weights; packed ones predict and evaluate."
        yield ConfigError("weights", problem, fix="write auto.")
    if run.context.device_target != "CPU" and not exported:
        problem = f"got {form!r}, but packed weights are computed by CPU kernels."
        yield ConfigError("weights", problem, fix="write auto, or context.device_target: CPU.")
    if run.use_parallel and run.parallel_config.ranks > 1:
        problem = f"got {form!r}, but packed weights are not cut over ranks, and this run has {run.parallel_config.ranks}."
        yield ConfigError("weights", problem, fix="write use_parallel: False, or weights: auto.")
