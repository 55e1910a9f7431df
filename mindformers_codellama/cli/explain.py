"""What a configuration amounts to: model, memory, batches and files, as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_codellama.config.check import global_batch
from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.config.sections import DatasetSection, RunConfig
from mindformers_codellama.layout.adapters import adapter_memory
from mindformers_codellama.layout.parameters import parameter_count
from mindformers_codellama.train.schedule import run_length

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
TRAINING_MODES = ("train", "finetune")


@dataclass(frozen=True)
class FileUse:
    """One path of a run: the key that names it, whether it is read or written, whether it is there."""

    key: str
    path: str
    use: str
    exists: bool


def explain(run: RunConfig) -> dict[str, Any]:
    """Everything `codellama check` shows but the findings; JSON-able."""
    return {
        "run_mode": run.run_mode,
        "device": run.context.device_target,
        "model": explain_model(run),
        "memory": explain_memory(run),
        "batch": explain_batch(run),
        "files": [vars(item) for item in files(run)],
    }


def explain_model(run: RunConfig) -> dict[str, Any]:
    """Name, sizes, types, and what the registry knows of the name."""
    config, facts = run.model.config, FAMILIES.get(run.trainer.model_name)
    return {
        "name": run.trainer.model_name,
        "registry": {"can_infill": facts.can_infill, "prompt_style": facts.prompt_style, "source": facts.source} if facts else None,
        "parameters": parameter_count(config),
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_theta,
        "seq_length": config.seq_length,
        "max_position": config.max_position,
        "compute_dtype": config.compute_dtype,
        "param_init_dtype": config.param_init_dtype,
    }


def explain_memory(run: RunConfig) -> dict[str, int]:
    """Bytes on each rank, for what can be counted; activations and MindSpore itself come on top.

    Weights are cut over model parallelism and stages; optimizer states (two float32 numbers per
    weight) also over data parallelism when `enable_parallel_optimizer` is set.
    """
    config, degrees = run.model.config, run.parallel_config
    count = parameter_count(config)
    share = degrees.model_parallel * degrees.pipeline_stage if run.use_parallel else 1
    found = {"weights": count * BYTES[config.param_init_dtype] // share}
    if run.run_mode in TRAINING_MODES and run.model.model_config.pet_config is not None:
        found = adapter_memory(run)
    elif run.run_mode in TRAINING_MODES:
        replicas = degrees.data_parallel if run.use_parallel and run.parallel.enable_parallel_optimizer else 1
        found["gradients"] = found["weights"]
        found["optimizer"] = count * 8 // share // replicas
    elif run.model.use_past:
        rows = run.predict_batch_size or run.model.batch_size
        per_position = 2 * config.num_layers * config.num_kv_heads * config.head_dim * BYTES[config.compute_dtype]
        found["kv_cache"] = rows * config.seq_length * per_position // share
    found["total"] = sum(found.values())
    return found


def explain_batch(run: RunConfig) -> dict[str, Any]:
    """Rows and tokens per step, and steps per epoch when the data says how many rows it has."""
    if run.run_mode not in TRAINING_MODES:
        return {"batch_size": run.predict_batch_size or run.model.batch_size}
    rows_per_step = global_batch(run)
    found: dict[str, Any] = {
        "global_batch": rows_per_step,
        "tokens_per_step": rows_per_step * run.model.config.seq_length,
        "steps": f"epochs {run.runner_config.epochs} * (rows * repeat {run.train_dataset.repeat} // global batch {rows_per_step})",
    }
    rows = manifest_rows(run.train_dataset)
    if rows is not None:
        runner = run.runner_config
        found["rows"] = rows
        found["steps_per_epoch"] = rows * run.train_dataset.repeat // rows_per_step
        if found["steps_per_epoch"]:
            length = run_length(
                epochs=runner.epochs, data_size=found["steps_per_epoch"], sink_mode=runner.sink_mode, sink_size=runner.sink_size
            )
            found["total_steps"] = length.total_steps
    return found


def manifest_rows(dataset: DatasetSection) -> int | None:
    """Rows kept, from the manifests beside the files; None when a manifest is missing or unreadable."""
    loader = dataset.data_loader
    paths = loader.dataset_files or ((loader.dataset_dir,) if loader.dataset_dir else ())
    total = 0
    for path in paths:
        try:
            rows = json.loads(Path(f"{path}.manifest.json").read_text(encoding="utf-8"))["rows"]
            total += rows["kept"] if isinstance(rows, dict) else int(rows)
        except (OSError, ValueError, KeyError, TypeError):
            return None
    return total if paths else None


def files(run: RunConfig) -> list[FileUse]:
    """Every path the run reads or writes, in the order it meets them."""
    found: list[FileUse] = []

    def add(key: str, path: str, use: str) -> None:
        if path:
            found.append(FileUse(key, path, use, Path(path).expanduser().exists()))

    training = run.run_mode in TRAINING_MODES
    add("load_checkpoint" if run.load_checkpoint else "model.model_config.checkpoint_name_or_path", run.start_weights, "read")
    add("src_strategy_path_or_dir", run.src_strategy_path_or_dir, "read")
    if training:
        _add_dataset(add, "train_dataset", run.train_dataset)
    if run.run_mode == "eval" or (training and run.do_eval):
        _add_dataset(add, "eval_dataset", run.eval_dataset)
    if not training:
        add("processor.tokenizer.vocab_file", run.processor.tokenizer.vocab_file, "read")
    output = Path(run.output_dir)
    if training:
        monitor = run.checkpoint_monitor
        if monitor is not None:
            add("callbacks.CheckpointMonitor", monitor.directory or str(output / "checkpoint"), "write")
        add("train_log", str(output / "log"), "write")
    else:
        add("output_dir", str(output), "write")
    return found


def _add_dataset(add: Any, name: str, dataset: DatasetSection) -> None:
    for path in dataset.data_loader.dataset_files:
        add(f"{name}.data_loader.dataset_files", path, "read")
    if not dataset.data_loader.dataset_files:
        add(f"{name}.data_loader.dataset_dir", dataset.data_loader.dataset_dir, "read")
