"""Rules for `engine: mindformers`: what MindFormers 1.9 cannot do, or would do differently without a word.

They need no MindFormers, so `codellama check` tells them anywhere. Source of each rule: mindformers 1.9.0.
"""

from __future__ import annotations

from collections.abc import Iterator

from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import CodeLlamaError, ConfigError

TRAINING_MODES = ("train", "finetune")


def mindformers_findings(run: RunConfig) -> list[CodeLlamaError]:
    """What stops MindFormers 1.9 from doing this run as it is written; nothing for another engine."""
    if run.engine != "mindformers":
        return []
    found = [*_training(run)] if run.run_mode in TRAINING_MODES else []
    return [*found, *_data(run), *(_cpu(run) if run.context.device_target == "CPU" else ())]


def is_semi_auto(run: RunConfig) -> bool:
    """Whether MindSpore cuts the operators (`parallel_mode` 1 or 2) rather than every rank holding a copy."""
    return run.use_parallel and run.parallel.parallel_mode in (1, 2)


def _training(run: RunConfig) -> Iterator[CodeLlamaError]:
    """Optimizer, learning rate and accumulation."""
    if run.optimizer.type == "FP32StateAdamWeightDecay" and run.model.config.param_init_dtype != "float32":
        yield ConfigError(
            "optimizer.type",
            "FP32StateAdamWeightDecay is gone from MindFormers 1.9, and what is left of it keeps moments in the type of the weights "
            f"({run.model.config.param_init_dtype}).",
            fix="write type: AdamW (float32 moments, with bias correction), or model.model_config.param_init_type: float32.",
        )
    schedule = run.lr_schedule
    if schedule.warmup_epochs and schedule.warmup_ratio is None:
        problem = f"got {schedule.warmup_epochs}; MindFormers 1.9 takes it only together with warmup_ratio, which then wins."
        yield ConfigError("lr_schedule.warmup_epochs", problem, fix="write warmup_ratio or warmup_steps.")
    steps = run.runner_config.gradient_accumulation_steps
    if steps > 1 and not (is_semi_auto(run) and run.parallel_config.pipeline_stage == 1):
        problem = f"got {steps}; MindFormers 1.9 accumulates only in parallel_mode 1 without a pipeline, and resets it to 1 elsewhere."
        yield ConfigError("runner_config.gradient_accumulation_steps", problem, fix="write 1 and a larger batch_size.")


def _data(run: RunConfig) -> Iterator[CodeLlamaError]:
    """Loops that MindFormers counts differently."""
    runner = run.runner_config
    if run.context.device_target == "CPU" and run.run_mode in TRAINING_MODES and runner.sink_mode and runner.sink_size != -1:
        problem = f"{runner.sink_size} with sink_mode on a CPU, where MindSpore does not sink: epochs would be counted wrongly."
        yield ConfigError("runner_config.sink_size", problem, fix="write sink_mode: False.")


def _cpu(run: RunConfig) -> Iterator[CodeLlamaError]:
    """Operators and modes MindSpore 2.9 has for Ascend only."""
    settings = run.model.model_config

    def refuse(key: str, problem: str, fix: str) -> ConfigError:
        return ConfigError(key, f"{problem} (device_target is CPU).", fix=fix)

    if settings.use_flash_attention:
        yield refuse("model.model_config.use_flash_attention", "FlashAttentionScore has no CPU kernel", "write False.")
    if run.run_mode == "predict" and settings.use_past:
        yield refuse("model.model_config.use_past", "its cache needs ApplyRotaryPosEmb, which has no CPU kernel", "write False.")
    if run.run_mode == "predict" and settings.is_dynamic:
        yield refuse("model.model_config.is_dynamic", "it switches flash attention on, which has no CPU kernel", "write False.")
    if not run.use_parallel or run.parallel_config.ranks == 1:
        return
    if run.parallel.parallel_mode != 0:
        problem = f"got {run.parallel.parallel_mode}: MindSpore cuts operators on Ascend only"
        yield refuse("parallel.parallel_mode", problem, "write 0 (data_parallel), or engine: native.")
    elif run.run_mode not in TRAINING_MODES:
        yield refuse("use_parallel", f"run_mode {run.run_mode} of MindFormers needs one process", "write False.")
    elif run.start_weights:
        problem = "with several ranks MindFormers waits at a Barrier while it loads, which has no CPU kernel"
        yield refuse("load_checkpoint", problem, "leave it empty, write use_parallel: False, or engine: native.")
