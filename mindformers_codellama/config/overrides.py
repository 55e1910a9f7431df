"""`--set section.key=value`, and the flags of MindFormers' `run_mindformer.py`, onto a YAML source.

A value is read as YAML, except that a key which holds a text takes it as it stands. The type is
checked where every value is checked, with `--set` as its place.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import yaml

from mindformers_codellama.config.fields import field_types
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.config.sections_callbacks import CALLBACK_TYPES
from mindformers_codellama.config.sections_training import DynamicLossScale
from mindformers_codellama.config.yaml_source import KeyPath, Source, parse_value
from mindformers_codellama.errors import ConfigError, raise_all

RUN_MINDFORMER_FLAGS: Mapping[str, tuple[str, ...]] = {
    "mode": ("context.mode",),
    "device_id": ("context.device_id",),
    "device_target": ("context.device_target",),
    "run_mode": ("run_mode",),
    "do_eval": ("do_eval",),
    "train_dataset_dir": ("train_dataset.data_loader.dataset_dir",),
    "eval_dataset_dir": ("eval_dataset.data_loader.dataset_dir",),
    "predict_data": ("input_data",),
    "predict_batch_size": ("predict_batch_size",),
    "load_checkpoint": ("load_checkpoint",),
    "src_strategy_path_or_dir": ("src_strategy_path_or_dir",),
    "auto_trans_ckpt": ("auto_trans_ckpt",),
    "only_save_strategy": ("only_save_strategy",),
    "resume_training": ("resume_training",),
    "strategy_load_checkpoint": ("src_strategy_path_or_dir",),
    "remote_save_url": ("remote_save_url",),
    "seed": ("seed",),
    "use_parallel": ("use_parallel",),
    "profile": ("profile",),
    "epochs": ("runner_config.epochs",),
    "batch_size": ("runner_config.batch_size", "model.model_config.batch_size"),
    "gradient_accumulation_steps": ("runner_config.gradient_accumulation_steps",),
    "sink_mode": ("runner_config.sink_mode",),
    "num_samples": ("train_dataset.data_loader.num_samples", "eval_dataset.data_loader.num_samples"),
    "output_dir": ("output_dir",),
}
"""Flag of `run_mindformer.py` to the keys it sets; `--options k=v` and `--a.b.c value` name keys themselves."""


_TASK_DATASET = re.compile(r"^(train_dataset|eval_dataset)_task\.dataset_config(?=\.|$)")
"""MindFormers' second name of a dataset; the reader has already moved it to the first."""


def apply_overrides(source: Source, overrides: Sequence[str]) -> None:
    """Lay `key=value` texts over a source, in order.

    A list element is named by its position (`callbacks.1.prefix`), a callback also by its type
    (`callbacks.CheckpointMonitor.prefix`).

    Raises:
        ConfigError: a text without `=`, an unknown key, or a value that is not YAML; `Findings` when there are several.
    """
    found: list[ConfigError] = []
    for text in [overrides] if isinstance(overrides, str) else overrides:
        name, equals, value = text.partition("=")
        name = name.strip()
        try:
            if not equals or not name:
                raise ConfigError(f"--set {text}", "is not key=value.", fix="e.g. --set runner_config.epochs=3.")
            set_value(source, name, value)
        except ConfigError as error:
            found.append(error)
    raise_all(found)


def set_value(source: Source, name: str, value: str) -> None:
    """Set one dotted key from a text; missing sections on the way are made."""
    place = f"--set {name}"
    path = _resolve(source, _TASK_DATASET.sub(r"\1", name), place)
    kind = _kind_of(source, path, place)
    try:
        parsed = value if kind is str else parse_value(value)
    except yaml.YAMLError as error:
        raise ConfigError(place, f"got {value!r}, which is not a value YAML can read.", fix="put it in quotes.") from error
    parent: Any = source.values
    for depth, part in enumerate(path[:-1]):
        if isinstance(part, str) and parent.get(part) is None:
            source.put(path[: depth + 1], {}, place)
        parent = source.values
        for step in path[: depth + 1]:
            parent = parent[step]
        if not isinstance(parent, (dict, list)):
            section = ".".join(map(str, path[: depth + 1]))
            raise ConfigError(
                place, f"{section} is {parent!r}, not a section.", fix=f"set {section} as a whole: '{section}={{key: value}}'."
            )
    source.put(path, parsed, place)


def _resolve(source: Source, name: str, place: str) -> KeyPath:
    """Dotted text to a key path; list positions become numbers, callback types their position."""
    path: list[str | int] = []
    parent: Any = source.values
    for part in name.split("."):
        step: str | int = part
        if isinstance(parent, list):
            step = _position(parent, part, place)
            parent = parent[step]
        else:
            parent = parent.get(part) if isinstance(parent, dict) else None
        path.append(step)
    return tuple(path)


def _position(items: list[Any], part: str, place: str) -> int:
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    wanted = CALLBACK_TYPES.get(part)
    for index, item in enumerate(items):
        if wanted is not None and isinstance(item, dict) and CALLBACK_TYPES.get(str(item.get("type"))) is wanted:
            return index
    present = [str(item.get("type")) for item in items if isinstance(item, dict)]
    raise ConfigError(
        place, f"the list has no element {part!r}.", fix=f"a position from 0 to {len(items) - 1}, or one of {', '.join(present)}."
    )


def _kind_of(source: Source, path: KeyPath, place: str) -> Any:
    """The declared type of a key, `Any` where none is declared; unknown keys are refused with the nearest name."""
    kind: Any = RunConfig
    for depth, part in enumerate(path):
        if isinstance(part, int):
            kind = CALLBACK_TYPES.get(str(_at(source, path[: depth + 1], "type")))
            continue
        if part == "type" and kind in (*CALLBACK_TYPES.values(), DynamicLossScale):
            return str
        if not dataclasses.is_dataclass(kind) or path[: depth + 1] == ("optimizer", "betas"):
            return Any
        known = field_types(kind)  # type: ignore[arg-type]
        if part not in known:
            near = get_close_matches(part, known, n=1)
            prefix = "".join(f"{item}." for item in path[:depth])
            fix = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(sorted(known))}."
            raise ConfigError(place, "unknown key.", fix=fix)
        kind = known[part]
        sections = [option for option in typing.get_args(kind) if dataclasses.is_dataclass(option)]
        if sections and depth + 1 < len(path):
            kind = sections[0]
    return kind


def _at(source: Source, path: KeyPath, key: str) -> Any:
    """The value of one key of the mapping at a path; None when there is no such thing."""
    value: Any = source.values
    for part in path:
        value = value[part]
    return value.get(key) if isinstance(value, dict) else None
