"""The configuration of a checkpoint: from what a person names, or from its shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mindformers_codellama.checkpoint.hf_config import read_hf_config
from mindformers_codellama.checkpoint.weight_map import Sizes
from mindformers_codellama.config.families import FAMILIES, model_facts
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import CheckpointError


def named_config(text: str) -> ModelConfig:
    """Configuration from a YAML file, a Hugging Face `config.json` (or its directory), or a registry name.

    Raises:
        CheckpointError, ConfigError: unreadable or unknown.
    """
    path = Path(text)
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".json":
        return read_hf_config(path)[0]
    if path.suffix in (".yaml", ".yml"):
        return read_run(path).model.config
    return model_facts(text).config


def config_from_shapes(where: object, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    """The one published configuration with these shapes.

    Raises:
        CheckpointError: none, or several that differ in what shapes do not show (heads, rotary base).
    """
    sizes = Sizes.found_in(shapes)
    fitting = {name: facts.config for name, facts in FAMILIES.items() if Sizes.of(facts.config) == sizes}
    if fitting and len(set(fitting.values())) == 1:
        return next(iter(fitting.values()))
    fix = "give --config: a YAML file, a Hugging Face config.json, or a model name."
    if fitting:
        raise CheckpointError(where, f"has the shapes of {', '.join(fitting)}, which differ in rotary base or positions.", fix=fix)
    raise CheckpointError(where, "does not say its configuration, and no known model has its shapes.", fix=fix)
