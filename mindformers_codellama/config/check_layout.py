"""Rules about degrees: what must divide what, and what several ranks cannot do together."""

from __future__ import annotations

from collections.abc import Iterator

from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import CodeLlamaError, ConfigError

SINGLE_PASS_MODES = ("eval", "predict", "export")
"""Values of `run_mode` that have no backward pass, and so no pipeline."""


def layout_findings(run: RunConfig) -> list[CodeLlamaError]:
    """What is wrong with the degrees; nothing when `use_parallel` is False."""
    if not run.use_parallel:
        return []
    if run.engine == "mindformers" and run.parallel.parallel_mode in (2, 3):
        return []  # MindSpore searches or takes the degrees, and judges them
    if run.parallel.parallel_mode in (2, 3):
        problem = f"got {run.parallel.parallel_mode}, but degrees are not searched for and operators are not cut one by one."
        fix = "write 1 (semi_auto_parallel) with degrees in parallel_config, or 0 (data_parallel)."
        return [ConfigError("parallel.parallel_mode", problem, fix=fix)]
    found = [*_predict(run), *_training(run)]
    if run.parallel.parallel_mode == 1:  # in mode 0 every rank is a copy: only the product of the degrees counts
        found += [*_model_axis(run), *_stage_axis(run)]
    return found


def layout_notes(run: RunConfig) -> list[str]:
    """What of several ranks a person should know, though nothing is wrong."""
    found: list[str] = []
    runner, degrees = run.runner_config, run.parallel_config
    if not run.use_parallel:
        if run.micro_batch_interleave_num > 1:
            found.append("micro_batch_interleave_num: has no effect without use_parallel.")
        return found
    if (degrees.optimizer_shard or run.model.model_config.parallel_optimizer) and not run.parallel.enable_parallel_optimizer:
        key = "parallel_config.optimizer_shard" if degrees.optimizer_shard else "model.model_config.parallel_optimizer"
        found.append(f"{key}: has no effect, as in MindFormers; parallel.enable_parallel_optimizer cuts optimizer states.")
    if run.engine == "native" and run.context.ascend_config.parallel_speed_up_json_path:
        found.append("context.ascend_config.parallel_speed_up_json_path: is not read; communication is not tuned.")
    if run.engine == "native" and run.parallel.parallel_mode == 1 and not run.parallel.full_batch and run.micro_batch_interleave_num > 1:
        found.append(
            "parallel.full_batch: False deals rows in turn, so the parts of micro_batch_interleave_num hold other rows than in one process."
        )
    if run.parallel.parallel_mode == 1 and degrees.pipeline_stage > 1 and runner.gradient_accumulation_steps > 1:
        found.append("runner_config.gradient_accumulation_steps: counts as 1 in a pipeline, where micro_batch_num takes its place.")
    return found


def _refuse(key: str, problem: str, fix: str = "") -> ConfigError:
    return ConfigError(f"parallel_config.{key}", problem, fix=fix)


def _model_axis(run: RunConfig) -> Iterator[CodeLlamaError]:
    """Heads, hidden channels and positions that ranks share."""
    degrees, config = run.parallel_config, run.model.config
    shared = degrees.model_parallel
    possible = [n for n in range(1, config.num_kv_heads + 1) if not (config.num_kv_heads % n or config.intermediate_size % n)]
    for name, size in (("n_kv_heads", config.num_kv_heads), ("intermediate_size", config.intermediate_size)):
        if size % shared:
            yield _refuse("model_parallel", f"got {shared}, must divide {name} ({size}).", f"write one of {', '.join(map(str, possible))}.")
    if degrees.use_seq_parallel and config.seq_length % shared:
        problem = f"True needs a seq_length ({config.seq_length}) that model_parallel ({shared}) divides."
        yield _refuse("use_seq_parallel", problem, "write False, or another seq_length.")


def _stage_axis(run: RunConfig) -> Iterator[CodeLlamaError]:
    """Layers over stages, and micro batches to fill them."""
    degrees, layers, offset = run.parallel_config, run.model.config.num_layers, run.model.model_config.offset
    stages = degrees.pipeline_stage
    if stages > layers:
        yield _refuse("pipeline_stage", f"got {stages}, must be at most num_layers ({layers}).")
    elif isinstance(offset, tuple) and stages > 1 and (len(offset), sum(offset)) != (stages, layers % stages):
        problem = f"got {list(offset)}: {layers} layers in {stages} stages need {stages} numbers that add up to {layers % stages}."
        yield ConfigError("model.model_config.offset", problem, fix="write 0 for the usual rule.")
    if run.run_mode in SINGLE_PASS_MODES and stages > 1:
        yield _refuse("pipeline_stage", f"got {stages}, but run_mode {run.run_mode} has no pipeline.", "write 1 and raise model_parallel.")
    elif degrees.micro_batch_num < stages:
        yield _refuse("micro_batch_num", f"got {degrees.micro_batch_num}, must be at least pipeline_stage ({stages}).")


def _training(run: RunConfig) -> Iterator[CodeLlamaError]:
    """Ways to work together that training does not have."""
    if run.run_mode not in ("train", "finetune"):
        return
    section, optimizer = run.parallel, run.parallel.parallel_optimizer_config
    if section.parallel_mode == 1 and section.gradients_mean:
        problem = "True would divide gradients of a loss that is the mean over all ranks' tokens already."
        yield ConfigError("parallel.gradients_mean", problem, fix="write False, or parallel_mode: 0.")
    if section.enable_alltoall:
        yield ConfigError("parallel.enable_alltoall", "True asks for a collective that nothing here uses.", fix="write False.")
    if optimizer.gradient_accumulation_shard:
        problem = "True, but accumulated gradients are whole on every rank."
        yield ConfigError("parallel.parallel_optimizer_config.gradient_accumulation_shard", problem, fix="write False.")
    copies = run.parallel_config.ranks if section.parallel_mode == 0 else run.parallel_config.data_parallel
    if section.enable_parallel_optimizer and optimizer.optimizer_weight_shard_size not in (-1, copies):
        problem = f"got {optimizer.optimizer_weight_shard_size}, but moments are cut over all {copies} data-parallel ranks."
        yield ConfigError("parallel.parallel_optimizer_config.optimizer_weight_shard_size", problem, fix="write -1.")
    if run.recompute_config.parallel_optimizer_comm_recompute:
        problem = "True, but weights are whole on every data-parallel rank: there is nothing to gather again."
        yield ConfigError("recompute_config.parallel_optimizer_comm_recompute", problem, fix="write False.")


def _predict(run: RunConfig) -> Iterator[CodeLlamaError]:
    """MindFormers cuts a batch of prompts over copies; here copies take turns at whole batches."""
    degrees = run.parallel_config
    rows = run.predict_batch_size or run.model.batch_size
    if run.engine == "mindformers" and run.run_mode == "predict" and rows % degrees.data_parallel:
        yield _refuse("data_parallel", f"got {degrees.data_parallel}, must divide the batch ({rows}).", "write data_parallel: 1.")
