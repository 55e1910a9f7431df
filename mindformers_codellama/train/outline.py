"""What a run would do, found without building the network: for `--dry-run`."""

from __future__ import annotations

from mindformers_codellama.checkpoint.start import check_start
from mindformers_codellama.config.check import require_runnable
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.layout.adapters import adapter_count, adapter_memory
from mindformers_codellama.layout.cuts import ModelLayout, run_model_layout
from mindformers_codellama.layout.parameters import parameter_count
from mindformers_codellama.train.adapter import base_run
from mindformers_codellama.train.batch_plan import plan_batches
from mindformers_codellama.train.plan import open_train_batches, plan_length, plan_scale, plan_schedule
from mindformers_codellama.train.start import open_folder, resume_point

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def outline(run: RunConfig, *, force: bool = False) -> list[str]:
    """Sentences about model, data, steps, learning rate, memory and files, after every check training makes.

    Raises:
        CodeLlamaError: whatever would stop the run before its first step, except a checkpoint to resume that is of another size.
    """
    require_runnable(run, ranks=run.parallel_config.ranks)
    model_layout = run_model_layout(run)
    places = _places(run, model_layout, force=force)
    source = open_train_batches(run)
    length = plan_length(run, source)
    schedule = plan_schedule(run, length)
    config, plan, pet = run.model.config, plan_batches(run), run.model.model_config.pet_config
    weights, rows, ranks = parameter_count(config), plan.step_rows, model_layout.layout.ranks
    if pet is None:
        held = max(_held(run, model_layout, rank, sums=plan.micro_steps > 1) for rank in range(ranks))
    else:
        held = sum(adapter_memory(run).values())
    last = length.total_steps - 1
    rates = ", ".join(f"step {step + 1} {schedule(step):.3g}" for step in sorted({0, min(schedule.warmup_steps, last), last // 2, last}))
    name = run.trainer.model_name or "without a name"
    lines = [
        f"model: {name}, {weights / 1e6:.2f}M weights in {config.param_init_dtype}, computed in {config.compute_dtype}",
        f"data: {source.rows} rows of {config.seq_length + 1} ids in {len(source.files)} file(s), columns {', '.join(source.columns)}",
        f"steps: {length.total_steps} of {rows} rows ({rows * config.seq_length} tokens), {length.data_size} per epoch",
        f"learning rate ({schedule.type}): {rates}",
        f"loss scale: {plan_scale(run).value:g}{', dynamic' if plan_scale(run).dynamic else ''}",
        f"memory for weights, gradients and moments: {held / 1e9:.2f} GB{' on the fullest rank' * (ranks > 1)}, activations not counted",
        *places,
    ]
    if pet is not None:
        linears = f"{len(pet.modules(config.num_layers))} linear layers ({', '.join(pet.linears)})"
        lines.insert(1, f"adapter: rank {pet.lora_rank} on {linears}, {adapter_count(config, pet) / 1e6:.3f}M numbers are trained")
    return lines


def _places(run: RunConfig, model_layout: ModelLayout, *, force: bool) -> list[str]:
    """Sentences about ranks, and about the checkpoints the run writes and starts from, which are looked at.

    Of an adapter every rank has a copy: rank 0 writes, and all read, what one process would.
    """
    layout, plan, adapts = model_layout.layout, plan_batches(run), run.model.model_config.pet_config is not None
    several = layout.ranks > 1
    each = several and not adapts
    point = None if each else resume_point(run)
    folder = None if each else open_folder(run, point, force=force)
    start = base_run(run) if adapts else run
    if start.start_weights and not start.resume_training:
        check_start(start, model_layout=model_layout if each else None)
    lines = []
    if several:
        lines.append(f"ranks: {layout.ranks} (data {layout.data_parallel}, model {layout.model_parallel}, stages {layout.pipeline_stage})")
        lines.append(f"micro batches: {plan.micro_steps} of {plan.micro_rows} rows, {plan.rows} on each data rank")
    if each:
        lines.append("checkpoints: looked at by the ranks themselves when they start")
    else:
        lines.append(f"checkpoints: {folder.folder if folder else 'none, no callback saves'}{', written by rank 0' * several}")
    if point:
        lines.append(f"resumes from {point.path} after {point.saved.state.step} steps")
    elif run.start_weights:
        lines.append(f"starts from the weights in {run.start_weights}")
    return lines


def _held(run: RunConfig, model_layout: ModelLayout, rank: int, *, sums: bool) -> int:
    """Bytes of weights, gradients, moments and accumulated gradients on one rank."""
    weights, gradients, moments = 0, 0, 0
    for name in model_layout.names(model_layout.layout.place(rank).stage):
        box, moment = model_layout.box(name, rank), model_layout.box(f"adam_m.{name}", rank)
        assert box is not None
        assert moment is not None
        weights, gradients, moments = weights + box.size, gradients + box.size, moments + 2 * moment.size
    return weights * BYTES[run.model.config.param_init_dtype] + 4 * (gradients * (2 if sums else 1) + moments)
