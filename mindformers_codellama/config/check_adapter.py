"""Rules of `model.model_config.pet_config`: what training an adapter needs."""

from __future__ import annotations

from collections.abc import Iterator

from mindformers_codellama.config.kernels_key import fits_kernels
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import CodeLlamaError, ConfigError

WHERE = "model.model_config.pet_config"
TRAINING_MODES = ("train", "finetune")


def adapter_findings(run: RunConfig) -> list[CodeLlamaError]:
    """What stops an adapter from being trained; nothing in other modes, which do not look at the section."""
    pet = run.model.model_config.pet_config
    if pet is None or run.run_mode not in TRAINING_MODES or run.engine != "native":
        return []
    found: list[CodeLlamaError] = []
    config = run.model.config
    if not pet.modules(config.num_layers):
        problem = f"got {list(pet.exclude_layers)}, which leaves no layer with an adapter."
        found.append(ConfigError(f"{WHERE}.exclude_layers", problem, fix="exclude fewer, e.g. ['0$'] for the first block."))
    if pet.compute_dtype is not None and pet.compute_dtype != config.compute_dtype:
        problem = f"got {pet.compute_dtype}, but the model computes in {config.compute_dtype}; adapters compute as the model does."
        found.append(ConfigError(f"{WHERE}.compute_dtype", problem, fix="leave it out."))
    found += _cut_axes(run)
    if pet.lora_dropout and (_ranks(run) > 1 or not _has_step_without_graph(run)):
        step = "a step of several ranks" if _ranks(run) > 1 else "a compiled step"
        problem = f"got {pet.lora_dropout}; {step} cannot leave out the same numbers again when a run is resumed."
        fix = "write 0, or train on the CPU in one process with kernels: auto, float32 weights, and compute_dtype float32 or bfloat16."
        found.append(ConfigError(f"{WHERE}.lora_dropout", problem, fix=fix))
    if run.resume_training and not run.model.checkpoint_name_or_path:
        problem = "is empty, but load_checkpoint names the adapter's run to go on with: the model below it is needed as well."
        fix = "name the model the adapter was begun on (or use codellama finetune CONFIG --resume with load_checkpoint as it was)."
        found.append(ConfigError("model.model_config.checkpoint_name_or_path", problem, fix=fix))
    elif run.run_mode == "train" and not run.start_weights:
        problem = "is empty, but with pet_config an adapter is trained, and the model below it stays as it is."
        found.append(ConfigError("load_checkpoint", problem, fix="name the model's checkpoint, or take pet_config out."))
    return found


def adapter_notes(run: RunConfig) -> list[str]:
    """Worth knowing."""
    if run.model.model_config.pet_config is None:
        return []
    if run.run_mode in TRAINING_MODES:
        cuts = _ranks(run) > 1 and run.parallel.enable_parallel_optimizer
        return ["parallel.enable_parallel_optimizer: has no effect on an adapter, whose optimizer states are whole on every rank."] * cuts
    return [f"{WHERE}: is for training alone; a trained adapter is used with --adapter, or merged (codellama merge-lora)."]


def _ranks(run: RunConfig) -> int:
    return run.parallel_config.ranks if run.use_parallel else 1


def _cut_axes(run: RunConfig) -> Iterator[CodeLlamaError]:
    """Axes that would cut the model; in `parallel_mode: 0` every rank is a copy, whatever they are called."""
    degrees = run.parallel_config
    if not run.use_parallel or run.parallel.parallel_mode == 0:
        return
    cut = {"model_parallel": degrees.model_parallel, "pipeline_stage": degrees.pipeline_stage}
    asked = " and ".join(f"{name} {degree}" for name, degree in cut.items() if degree > 1)
    if asked:
        problem = f"asks for {asked}, but A and B are not cut: an adapter is trained on one rank, or on data_parallel ranks alone."
        fix = f"write data_parallel: {degrees.ranks}, model_parallel: 1, pipeline_stage: 1 (each rank holds the whole model: docs/lora.md)."
        yield ConfigError("parallel_config", problem, fix=fix)


def _has_step_without_graph(run: RunConfig) -> bool:
    return run.context.device_target == "CPU" and run.kernels != "off" and fits_kernels(run.model.config)
