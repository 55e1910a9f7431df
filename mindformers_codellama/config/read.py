"""YAML in MindFormers' dialect to `RunConfig`: strict keys, types and ranges, all findings at once."""

from __future__ import annotations

import dataclasses
import logging
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from mindformers_codellama.config.check import static_findings
from mindformers_codellama.config.coerce import WrongType, coerce, describe, given
from mindformers_codellama.config.fields import KeyRule, field_types, rule_of
from mindformers_codellama.config.overrides import apply_overrides
from mindformers_codellama.config.refused import refusal
from mindformers_codellama.config.sections import ENGINES, RunConfig
from mindformers_codellama.config.sections_callbacks import CALLBACK_TYPES, Callback
from mindformers_codellama.config.sections_training import DynamicLossScale
from mindformers_codellama.config.yaml_source import KeyPath, Source, load_source, load_yaml
from mindformers_codellama.errors import CodeLlamaError, ConfigError, Findings, raise_all

__all__ = ["load_yaml", "read_run", "read_section"]

logger = logging.getLogger(__name__)
Section = TypeVar("Section")

DEPRECATED: Mapping[str, str] = {
    "pretrain_seqlen": "max_position_embedding",
    "compute_in_2d": "",
    "use_past_shard": "",
}
"""Old keys of `model.model_config` and the key that took their place."""


def read_run(path: str | Path, *, overrides: Sequence[str] = ()) -> RunConfig:
    """The run a YAML file describes.

    Args:
        path: YAML file; its `base_config` files are laid underneath.
        overrides: `section.key=value` texts, applied in order after the files.

    Raises:
        ConfigError: one finding; `Findings` when there are several. Each names file, line and key.
    """
    source = load_source(path)
    if not source.values and not overrides:
        raise ConfigError(path, "holds no key: every value would be a default, those of a 7B model.", fix="give a configuration file.")
    _settle_datasets(source)  # so that overrides find each dataset in its one place
    apply_overrides(source, overrides)
    _settle_datasets(source)
    _settle_rates(source)
    reader = _Reader(source)
    run = reader.section(RunConfig, source.values, (), "")
    if run is None or reader.findings:
        raise_all(reader.findings)
    assert run is not None, "a section that cannot be built leaves a finding"
    raise_all(_placed(source, static_findings(run)))
    for key in DEPRECATED:
        where = ("model", "model_config", key)
        if where in source.places:
            logger.warning("%s: %s", source.where(where), deprecation(key))
    return run


def deprecation(key: str) -> str:
    """What to write in place of an old key."""
    successor = DEPRECATED[key]
    return f"an old key; write {successor} instead." if successor else "an old key without effect; take it out."


def read_section(kind: type[Section], values: Mapping[str, Any], *, name: str = "") -> Section:
    """One section from plain values, as strictly as from a file.

    Args:
        kind: the section's dataclass.
        values: keys in the spelling of the YAML.
        name: the section's place, for messages.

    Raises:
        ConfigError: unknown keys, wrong types or values; `Findings` when there are several.
    """
    reader = _Reader(Source(values=dict(values)))
    section = reader.section(kind, values, tuple(name.split(".")) if name else (), name)
    raise_all(reader.findings)
    assert section is not None, "a section that cannot be built leaves a finding"
    return section


class _Reader:
    """Builds sections and collects what is wrong instead of stopping at the first."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.findings: list[CodeLlamaError] = []
        engine = source.values.get("engine")
        self.engine = engine if engine in ENGINES else ENGINES[0]
        """Whose table of refused values applies; a wrong name is a finding of its own."""

    def section(self, kind: type[Section], values: Any, path: KeyPath, lookup: str) -> Section | None:
        """One section; None when something in it is wrong (the findings say what)."""
        if isinstance(values, kind):
            return values
        if values is None:
            values = {}
        if not isinstance(values, Mapping):
            self.refuse(path, f"got {given(values)}.", "a section: keys and values, indented below it.")
            return None
        before = len(self.findings)
        known = field_types(kind)  # type: ignore[arg-type]
        fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        built: dict[str, Any] = {}
        for key, value in values.items():
            if key not in known:
                self.unknown(path, key, known)
                continue
            here = (*path, key)
            try:
                built[key] = self.value(known[key], value, here, rule_of(fields[key]))
            except WrongType as error:
                self.refuse(here, f"got {given(value)}.", f"{error.allowed}.{rule_of(fields[key]).wording()}")
                continue
            self.judge(rule_of(fields[key]), built[key], here, _canonical(lookup, key))
        if len(self.findings) > before:
            return None
        return self.born(kind, built, path)

    def value(self, kind: Any, value: Any, path: KeyPath, rule: KeyRule) -> Any:
        """One value in the field's type; sections and lists of callbacks are read by their own rules."""
        if dataclasses.is_dataclass(kind):
            return self.section(kind, value, path, ".".join(str(part) for part in path))  # type: ignore[arg-type]
        options = typing.get_args(kind)
        if options and options[0] == Callback and typing.get_origin(kind) is tuple:
            return self.callbacks(value, path)
        if DynamicLossScale in options and isinstance(value, Mapping):
            return self.loss_scale(value, path)
        sections = [option for option in options if dataclasses.is_dataclass(option)]
        if sections and isinstance(value, Mapping):
            return self.section(sections[0], value, path, ".".join(str(part) for part in path))  # type: ignore[arg-type]
        return coerce(value, kind, rule)

    def judge(self, rule: KeyRule, value: Any, path: KeyPath, names: tuple[str, ...]) -> None:
        """Note a value outside its range, or one that asks for something refused."""
        for item in value if isinstance(value, tuple) else (value,):
            problem = None if item is None or dataclasses.is_dataclass(item) else rule.problem(item)
            if problem:
                self.refuse(path, *problem)
        refused = refusal(names, value, where=self.source.where(path), engine=self.engine)
        if refused:
            self.findings.append(refused)

    def callbacks(self, value: Any, path: KeyPath) -> tuple[Callback, ...]:
        """The list of callbacks, each told by its `type`."""
        if not isinstance(value, (list, tuple)):
            if value is None:
                return ()
            raise WrongType("a list of callbacks, each with `- type: ...`")
        found: list[Any] = []
        for index, item in enumerate(value):
            here = (*path, index)
            if not isinstance(item, Mapping):
                self.refuse(here, f"got {given(item)}.", "a section with a type, such as `- type: MFLossMonitor`.")
                continue
            name = item.get("type")
            kind = CALLBACK_TYPES.get(str(name))
            if kind is None:
                near = get_close_matches(str(name), CALLBACK_TYPES, n=1)
                known = "CheckpointMonitor, MFLossMonitor, ObsMonitor, SummaryMonitor"
                self.refuse((*here, "type"), f"got {name!r}.", f"did you mean {near[0]}?" if near else f"one of {known}.")
                continue
            settings = {key: entry for key, entry in item.items() if key != "type"}
            found.append(self.section(kind, settings, here, f"callbacks.{kind.__name__}"))
        return tuple(item for item in found if item is not None)

    def loss_scale(self, value: Mapping[str, Any], path: KeyPath) -> float | DynamicLossScale | None:
        """`scale_sense` written as a section: following overflow, or fixed."""
        settings = {key: item for key, item in value.items() if key != "type"}
        kind = value.get("type")
        if kind not in ("DynamicLossScaleUpdateCell", "FixedLossScaleUpdateCell"):
            self.refuse(
                (*path, "type"),
                f"got {kind!r}.",
                "DynamicLossScaleUpdateCell, FixedLossScaleUpdateCell, or a number in place of the section.",
            )
            return None
        scale = self.section(DynamicLossScale, settings, path, ".".join(str(part) for part in path))
        return scale.loss_scale_value if scale and kind == "FixedLossScaleUpdateCell" else scale

    def born(self, kind: type[Section], built: dict[str, Any], path: KeyPath) -> Section | None:
        """The section itself; its own checks run here and get their place in the file."""
        try:
            return kind(**built)
        except Findings as error:
            self.findings.extend(self.placed(one, path, built) for one in error)
        except CodeLlamaError as error:
            self.findings.append(self.placed(error, path, built))
        return None

    def placed(self, error: CodeLlamaError, path: KeyPath, built: Mapping[str, Any]) -> CodeLlamaError:
        """The same error with file and line; the key is the last word of where it was found."""
        key = error.where.rsplit(".", 1)[-1]
        inner = (*path, "model_config", key) if path == ("model",) else (*path, key)
        where = self.source.where(inner) if key in built or path == ("model",) else self.source.where(path)
        return type(error)(where, error.problem, fix=error.fix)

    def refuse(self, path: KeyPath, problem: str, allowed: str) -> None:
        """Note one finding at a key path."""
        self.findings.append(ConfigError(self.source.where(path), problem, fix=allowed))

    def unknown(self, path: KeyPath, key: object, known: Mapping[str, Any]) -> None:
        """Note a key that no section has, with the nearest name."""
        near = get_close_matches(str(key), known, n=1)
        prefix = "".join(f"{part}." for part in path)
        fix = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(known))}."
        self.refuse((*path, str(key)), "unknown key.", fix)


def _canonical(lookup: str, key: str) -> tuple[str, ...]:
    return (*lookup.split("."), key) if lookup else (key,)


def _placed(source: Source, errors: Sequence[CodeLlamaError]) -> list[CodeLlamaError]:
    """Errors that name a dotted key, with file and line in front of it."""
    return [type(error)(source.where(tuple(error.where.split("."))), error.problem, fix=error.fix) for error in errors]


def _settle_datasets(source: Source) -> None:
    """Resolve `train_dataset_task.dataset_config`: normally an alias of `train_dataset`, which wins as in MindFormers."""
    for name in ("train_dataset", "eval_dataset"):
        task = source.values.get(f"{name}_task")
        if not isinstance(task, dict) or "dataset_config" not in task:
            continue
        path: KeyPath = (f"{name}_task", "dataset_config")
        config = task["dataset_config"]
        if name not in source.values:
            source.put((name,), config, source.place(path))
        elif source.aliases.get(path) != (name,) and config is not None and config != source.values[name]:
            raise ConfigError(source.where(path), f"says something else than {name}.", fix=f"write it once: dataset_config: *{name}.")
        source.values[f"{name}_task"] = {key: value for key, value in task.items() if key != "dataset_config"}


def _settle_rates(source: Source) -> None:
    """`optimizer.betas` to beta1 and beta2; the optimizer's learning rate to a schedule that has none."""
    optimizer = source.values.get("optimizer")
    if not isinstance(optimizer, dict):
        return
    if "betas" in optimizer:
        path: KeyPath = ("optimizer", "betas")
        betas = optimizer["betas"]
        if not isinstance(betas, list) or len(betas) != 2:
            raise ConfigError(source.where(path), f"got {given(betas)}.", fix=f"two numbers ({describe(float)} each): betas: [0.9, 0.95].")
        place = source.place(path)
        for index, beta in enumerate(betas, 1):
            source.put(("optimizer", f"beta{index}"), beta, place)
        source.values["optimizer"].pop("betas")
    rate = source.values["optimizer"].get("learning_rate")
    schedule = source.values.get("lr_schedule") or {}
    if rate is not None and isinstance(schedule, dict) and "learning_rate" not in schedule:
        source.values["lr_schedule"] = dict(schedule)
        source.put(("lr_schedule", "learning_rate"), rate, source.place(("optimizer", "learning_rate")))
