"""Our configuration in the words of MindFormers 1.9: plain values, and what a person should know about them.

Every key is written out with its value, defaults too: those of 1.9 differ from those of the dialect. Nothing here
imports MindFormers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from mindformers_codellama.config.refused import lookup_name
from mindformers_codellama.config.sections import DynamicLossScale, RunConfig
from mindformers_codellama.engines.mindformers_keys import ADDED, CALLBACKS, CPU_VALUES, LEFT_OUT, SECTION_MODES, VALUES


@dataclass(frozen=True)
class Translation:
    """What `MindFormerConfig` is made of."""

    values: dict[str, Any]
    """Nested dicts, lists and plain values."""
    notes: tuple[str, ...]
    """What was changed or left out that a person asked for."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What only the machine knows."""

    weights: str = ""
    """Checkpoint in a form MindFormers reads; empty starts from initial weights."""
    vocab_file: str = ""
    """Path of `tokenizer.model`, for prediction."""
    device_id: int | None = None
    """What a launcher chose; None takes the configuration's."""
    most_workers: int | None = None
    """Threads the machine has: MindSpore's own reader refuses more. None is no bound."""


def translate(run: RunConfig, found: Found) -> Translation:
    """The configuration of MindFormers 1.9 for this run.

    Args:
        run: a configuration without findings (`config.check.run_findings`).
        found: what only the machine knows.
    """
    notes: list[str] = []
    here = [item for item in fields(run) if _belongs(item.name, run)]
    values = {**_plain(run, (), notes, only=here), **ADDED}
    values["load_checkpoint"] = found.weights
    values["model"]["model_config"] |= {
        "checkpoint_name_or_path": "",  # load_checkpoint alone says it
        "max_position_embedding": run.model.config.max_position,
    }
    for name in ("callbacks", "eval_callbacks"):
        if _belongs(name, run):
            values[name] = _callbacks(getattr(run, name), notes)
    if found.device_id is not None:
        values["context"]["device_id"] = found.device_id
    if run.run_mode == "predict":
        values["processor"]["tokenizer"]["vocab_file"] = found.vocab_file
    else:
        _settle_training(run, values, found.most_workers)
    if run.context.device_target == "CPU":
        _settle_cpu(values, notes)
    return Translation(values, tuple(dict.fromkeys(notes)))


def _belongs(key: str, run: RunConfig) -> bool:
    modes = SECTION_MODES.get(key)
    evaluates = bool(modes and "eval" in modes and run.do_eval and run.run_mode in ("train", "finetune"))
    return modes is None or run.run_mode in modes or evaluates


def _plain(section: Any, path: tuple[str, ...], notes: list[str], *, only: Sequence[Any] | None = None) -> dict[str, Any]:
    """A section as a dict: keys renamed or left out by the tables; null, empty texts and empty sections are left out."""
    found: dict[str, Any] = {}
    for item in fields(section) if only is None else only:
        here, value = (*path, item.name), getattr(section, item.name)
        name = lookup_name(here)
        left = LEFT_OUT.get(name)
        if left is not None:
            if left.loud and value != _default(item):
                notes.append(f"{'.'.join(here)}: left out, {left.why}")
            continue
        change = VALUES.get((name, value)) if isinstance(value, (str, int)) else None
        if change is not None:
            notes += [f"{'.'.join(here)}: {change.value} in place of {value}: {change.why}"] if change.why else []
            value = change.value
        if isinstance(value, DynamicLossScale):
            value = {"type": "DynamicLossScaleUpdateCell", **_plain(value, here, notes)}
        elif is_dataclass(value):
            value = _plain(value, here, notes)
        elif isinstance(value, tuple):
            value = list(value)
        if value not in (None, "", {}, []) and name not in ("callbacks", "eval_callbacks"):
            found[item.name] = value
    return found


def _default(item: Any) -> Any:
    return item.default_factory() if item.default is MISSING else item.default


def _callbacks(sections: tuple[Any, ...], notes: list[str]) -> list[dict[str, Any]]:
    """The list of callbacks; `ObsMonitor` is gone."""
    found: list[dict[str, Any]] = []
    for section in sections:
        name = CALLBACKS[type(section).__name__]
        if name:
            found.append({"type": name, **_plain(section, ("callbacks", type(section).__name__), notes)})
    return found


def _settle_training(run: RunConfig, values: dict[str, Any], most_workers: int | None) -> None:
    """Keys whose form depends on others: betas, warm-up, datasets, the cut of the batch."""
    optimizer = values.get("optimizer")
    if optimizer and optimizer["type"] == "AdamW":
        optimizer["betas"] = [optimizer.pop("beta1"), optimizer.pop("beta2")]
    schedule = values.get("lr_schedule")
    if schedule:
        schedule.pop("warmup_epochs", None)  # warmup_ratio wins, and stands beside it
    for name in ("train_dataset", "eval_dataset"):
        dataset = values.get(name)
        if dataset:
            dataset["num_parallel_workers"] = min(dataset["num_parallel_workers"], most_workers or dataset["num_parallel_workers"])
            if dataset["data_loader"].get("dataset_files"):
                dataset["data_loader"].pop("dataset_dir", None)  # the files win here, the folder there
            values[f"{name}_task"]["dataset_config"] = dataset
    if run.use_parallel and run.parallel.parallel_mode == 1 and not run.parallel.full_batch:
        rows = run.parallel_config.data_parallel
        dataset = run.train_dataset if run.run_mode in ("train", "finetune") else run.eval_dataset
        values["parallel"]["dataset_strategy"] = [[rows, 1] for _ in dataset.input_columns]


def _settle_cpu(values: dict[str, Any], notes: list[str]) -> None:
    """`CPU_VALUES` over the values, where their section is there."""
    for name, change in CPU_VALUES.items():
        *sections, key = name.split(".")
        place: Mapping[str, Any] | None = values
        for part in sections:
            place = place.get(part) if place else None
        if isinstance(place, dict) and place.get(key) != change.value:
            place[key] = change.value
            notes.append(f"{name}: {change.value} on a CPU: {change.why}")
