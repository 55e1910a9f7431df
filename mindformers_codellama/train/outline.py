"""What a run would do, found without building the network: for `--dry-run`."""

from __future__ import annotations

import math

from mindformers_codellama.config.check import require_runnable, require_single_process
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.train.plan import open_train_batches, plan_length, plan_scale, plan_schedule
from mindformers_codellama.train.run import open_folder, resume_point

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def outline(run: RunConfig, *, force: bool = False) -> list[str]:
    """Sentences about model, data, steps, learning rate, memory and files, after every check training makes.

    Raises:
        CodeLlamaError: whatever would stop the run before its first step, except a checkpoint of another size.
    """
    require_runnable(run)
    require_single_process(run)
    point = resume_point(run)
    folder = open_folder(run, point, force=force)
    source = open_train_batches(run)
    length = plan_length(run, source)
    schedule = plan_schedule(run, length)
    runner, config = run.runner_config, run.model.config
    weights = sum(math.prod(shape) for shape in parameter_shapes(config).values())
    held = weights * (BYTES[config.param_init_dtype] + 8 + 4 + 4 * (runner.gradient_accumulation_steps > 1))
    rows = runner.batch_size * runner.gradient_accumulation_steps
    last = length.total_steps - 1
    rates = ", ".join(f"step {step + 1} {schedule(step):.3g}" for step in sorted({0, min(schedule.warmup_steps, last), last // 2, last}))
    name = run.trainer.model_name or "without a name"
    lines = [
        f"model: {name}, {weights / 1e6:.2f}M weights in {config.param_init_dtype}, computed in {config.compute_dtype}",
        f"data: {source.rows} rows of {config.seq_length + 1} ids in {len(source.files)} file(s), columns {', '.join(source.columns)}",
        f"steps: {length.total_steps} of {rows} rows ({rows * config.seq_length} tokens), {length.data_size} per epoch",
        f"learning rate ({schedule.type}): {rates}",
        f"loss scale: {plan_scale(run).value:g}{', dynamic' if plan_scale(run).dynamic else ''}",
        f"memory for weights, gradients and moments: {held / 1e9:.2f} GB, activations not counted",
        f"checkpoints: {folder.folder if folder else 'none, no callback saves'}",
    ]
    if point:
        lines.append(f"resumes from {point.path} after {point.saved.state.step} steps")
    elif run.start_weights:
        lines.append(f"starts from the weights in {run.start_weights}")
    return lines
