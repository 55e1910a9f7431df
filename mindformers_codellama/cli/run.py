"""`codellama run`: what MindFormers' `run_mindformer.py` does, with its flags.

Each flag sets the keys of `config.overrides.RUN_MINDFORMER_FLAGS`; `--a.b.c value` sets any key.
The run then goes to the command of its `run_mode`.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mindformers_codellama.config.overrides import RUN_MINDFORMER_FLAGS
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.pipelines.prompt_files import decode_newlines

logger = logging.getLogger(__name__)

EXAMPLES = """examples:
  codellama run --config configs/codellama/pretrain_codellama_tiny.yaml --run_mode train --epochs 1
  codellama run --config configs/codellama/predict_codellama_tiny.yaml --run_mode predict --predict_data "def add(a, b):"
  codellama run --config configs/codellama/pretrain_codellama_tiny.yaml --optimizer.eps 1e-7 --options seed=3
"""

HELP: Mapping[str, str] = {
    "mode": "0 graph, 1 PyNative",
    "run_mode": "train, finetune, eval, predict or export",
    "predict_data": r"texts, or files or folders of texts; \n in a single text is a new line",
    "batch_size": "rows per rank and micro step, and prompts generated at once",
    "strategy_load_checkpoint": "old name of --src_strategy_path_or_dir",
    "num_samples": "read only so many rows of each dataset",
}

MODE_COMMANDS: Mapping[str, str] = {
    "train": "mindformers_codellama.cli.train",
    "finetune": "mindformers_codellama.cli.train",
    "eval": "mindformers_codellama.cli.evaluate",
    "predict": "mindformers_codellama.cli.predict",
    "export": "mindformers_codellama.cli.export",
}
"""`run_mode` to the module whose `run_config(run)` does it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `run_mindformer.py`; each takes a value, also the ones that are True or False."""
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file, relative to the working directory or to the project")
    for flag, keys in RUN_MINDFORMER_FLAGS.items():
        nargs = "+" if flag == "predict_data" else None
        parser.add_argument(f"--{flag}", nargs=nargs, metavar="VALUE", help=HELP.get(flag, f"sets {', '.join(keys)}"))
    parser.add_argument("--options", nargs="+", metavar="KEY=VALUE", default=[], help="keys to set, as --set in other commands")
    parser.set_defaults(others=[], other_flags=True)  # --a.b.c value, collected by main


def run(arguments: argparse.Namespace) -> int:
    """Read the configuration with every flag laid over it, and start what `run_mode` says."""
    config = read_run(config_path(arguments.config), overrides=overrides_from(arguments))
    return dispatch(config)


def config_path(text: str) -> Path:
    """The file as given, or below the project's folder, where MindFormers looks first."""
    path = Path(text).expanduser()
    beside = Path(__file__).resolve().parents[2] / path
    return beside if not path.exists() and beside.exists() else path


def overrides_from(arguments: argparse.Namespace) -> list[str]:
    """`key=value` texts from the flags that were given, in the order flags, options, dotted keys."""
    found: list[str] = []
    for flag, keys in RUN_MINDFORMER_FLAGS.items():
        value = getattr(arguments, flag, None)
        if value is None:
            continue
        text = json.dumps(decode_newlines(value)) if isinstance(value, list) else value  # a JSON list is a YAML list
        found.extend(f"{key}={text.strip()}" for key in keys)
    return [*found, *arguments.options, *dotted_overrides(arguments.others)]


def dotted_overrides(words: Sequence[str]) -> list[str]:
    """`--a.b.c value` and `--a.b.c=value` as `a.b.c=value`.

    Raises:
        ConfigError: a word that is no flag, or a flag without a value.
    """
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise ConfigError(word, "is not a flag.", fix="write --section.key value; see codellama run --help.")
        if not equals:
            if not rest:
                raise ConfigError(word, "has no value.", fix=f"write {word} VALUE.")
            value = rest.pop(0)
        found.append(f"{name}={value}")
    return found


def dispatch(run_config: Any) -> int:
    """Start what `run_mode` says; the exit code.

    Raises:
        ConfigError: `export`, which this version does not have.
    """
    require_mode(run_config)
    logger.info("run_mode %s", run_config.run_mode)
    return int(import_module(MODE_COMMANDS[run_config.run_mode]).run_config(run_config) or 0)


def require_mode(run_config: Any) -> None:
    """Refuse a `run_mode` that no command does.

    Raises:
        ConfigError: `export`, which this version does not have.
    """
    mode = run_config.run_mode
    if mode not in MODE_COMMANDS:
        raise ConfigError("run_mode", f"{mode} is not available in this version.", fix=f"one of {', '.join(MODE_COMMANDS)}.")
