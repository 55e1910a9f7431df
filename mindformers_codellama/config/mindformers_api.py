"""The configuration classes MindFormers' scripts use, over the frozen sections.

They are mutable and spelled as in MindFormers, so a script that reads a YAML file, changes a few
attributes and builds a model runs as it is. Unlike MindFormers', a misspelt key or attribute is
refused with the nearest name, and what they hold is checked as a YAML file is.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from mindformers_codellama.config.dialect import MODEL_KEYS
from mindformers_codellama.config.families import FAMILIES, model_facts
from mindformers_codellama.config.fields import field_types
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.read import load_yaml, read_run, read_section
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.config.sections_callbacks import CALLBACK_TYPES
from mindformers_codellama.config.sections_model import LlamaSettings, ModelSection
from mindformers_codellama.config.sections_parallel import ContextSection, ParallelConfigSection, ParallelSection
from mindformers_codellama.errors import ConfigError

TRUE_WORDS = ("true", "t", "yes", "y", "on", "1")
FALSE_WORDS = ("false", "f", "no", "n", "off", "0")


def str2bool(text: str | bool) -> bool:
    """`True` and `False` as people type them; a `type=` for argparse.

    Raises:
        ConfigError: any other text.
    """
    if isinstance(text, bool):
        return text
    word = str(text).lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ConfigError("argument", f"got {text!r}.", fix="True or False.")


class MindFormerConfig(dict[str, Any]):
    """A YAML file as a mapping whose keys are also attributes, at every depth.

    The file is checked first, as `codellama check` reads it. A key the file leaves out reads as
    None, as in MindFormers, and a left-out section as an empty one; a name that no configuration
    has is an AttributeError.

    Args:
        source: path of a YAML file, or a mapping.
        **values: keys laid over it.
    """

    def __init__(self, source: str | Path | Mapping[str, Any] | None = None, **values: Any) -> None:
        if isinstance(source, (str, Path)):
            read_run(source)
            source = load_yaml(source)
        super().__init__()
        for key, value in {**(source or {}), **values}.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, MindFormerConfig(value) if type(value) is dict else value)

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        sections, keys = _yaml_names()
        if name in sections:
            return MindFormerConfig()
        if name in keys:
            return None
        near = get_close_matches(name, [*self, *keys], n=1)
        raise AttributeError(f"no configuration has {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."))

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts."""
        return {key: value.to_dict() if isinstance(value, MindFormerConfig) else value for key, value in self.items()}


@functools.lru_cache(maxsize=1)
def _yaml_names() -> tuple[frozenset[str], frozenset[str]]:
    """Names of sections, and of all keys, anywhere in a configuration."""
    sections: set[str] = set()
    keys: set[str] = set()
    waiting: list[Any] = [RunConfig, *CALLBACK_TYPES.values()]
    while waiting:
        for name, kind in field_types(waiting.pop()).items():
            keys.add(name)
            inner = [option for option in (kind, *get_args(kind)) if is_dataclass(option)]
            waiting.extend(inner)
            if inner:
                sections.add(name)
    return frozenset(sections), frozenset(keys)


class _Settings:
    """Mutable attributes named and typed by a frozen section, which `section()` builds and checks."""

    _kind: type
    _name: str
    _extra: tuple[str, ...] = ()

    def __init__(self, **values: Any) -> None:
        for field in fields(self._kind):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            object.__setattr__(self, field.name, default)
        for name, value in values.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        known = [field.name for field in fields(self._kind)]
        if name not in known and name not in self._extra:
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}."
            raise ConfigError(f"{type(self).__name__}.{name}", "unknown attribute.", fix=fix)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2, default=str)}"

    def to_dict(self) -> dict[str, Any]:
        """Attributes as they were set, in the order of the documentation."""
        return {field.name: getattr(self, field.name) for field in fields(self._kind)}

    def section(self) -> Any:
        """The frozen section of these attributes.

        Raises:
            ConfigError: a wrong type or value; `Findings` when there are several.
        """
        return read_section(self._kind, self.to_dict(), name=self._name)


class TransformerOpParallelConfig(_Settings):
    """`parallel_config`: the degrees of parallelism."""

    _kind = ParallelConfigSection
    _name = "parallel_config"


class ContextConfig(_Settings):
    """`context`: device and mode."""

    _kind = ContextSection
    _name = "context"


class ParallelContextConfig(_Settings):
    """`parallel`: MindSpore's parallel context."""

    _kind = ParallelSection
    _name = "parallel"


class LlamaConfig(_Settings):
    """A model in MindFormers' words: keys and defaults of `model.model_config`.

    `model_config()` and `generation_config()` give the same in ours.
    """

    _kind = LlamaSettings
    _name = "model.model_config"
    _extra = ("parallel_config", "moe_config")

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "parallel_config", TransformerOpParallelConfig())
        object.__setattr__(self, "moe_config", None)
        super().__init__(**values)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> LlamaConfig:
        """The configuration of a model of the registry, or of a YAML file.

        Raises:
            ConfigError: neither a registry name nor a file.
        """
        if str(name_or_path) not in FAMILIES and Path(name_or_path).is_file():
            return cls(**MindFormerConfig(name_or_path).model.model_config)
        config = model_facts(str(name_or_path)).config
        return cls(**{theirs: getattr(config, ours) for theirs, ours in MODEL_KEYS.items()})

    def model_config(self) -> ModelConfig:
        """Sizes, numbers and types of the network.

        Raises:
            ConfigError: a wrong type or value; `Findings` when there are several.
        """
        return ModelSection(model_config=self.section()).config

    def generation_config(self) -> GenerationConfig:
        """How the network generates unless a call says otherwise.

        Raises:
            ConfigError: a wrong type or value; `Findings` when there are several.
        """
        return ModelSection(model_config=self.section()).generation
