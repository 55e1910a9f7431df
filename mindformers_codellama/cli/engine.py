"""A run by another engine than this package: the key `engine` of a configuration, followed by every command that computes."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mindformers_codellama.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mindformers_codellama.config.sections import RunConfig

logger = logging.getLogger(__name__)

RESULT_FILE = "text_generation_result.txt"
"""MindFormers writes its answers here, over what is there."""

HANDED_OVER = ("prompts", "predict_data", "keep_backslashes", "load_checkpoint", "overrides", "device", "json", "as_json", "others")
"""Arguments of `codellama predict` another engine understands; the rest shapes our own generation."""


def is_elsewhere(run: RunConfig) -> bool:
    """Whether another engine than this package shall compute."""
    return run.engine != "native"


def run_elsewhere(run: RunConfig, *, prompts: Sequence[str] | None = None, as_json: bool = False) -> int:
    """Hand the run to the engine it names and print what came out; the exit code.

    Args:
        run: the configuration.
        prompts: texts to continue, in place of `input_data`.
        as_json: print JSON.
    """
    from mindformers_codellama.cli.predict import move_aside
    from mindformers_codellama.engines.choose import open_engine, run_with_engine

    if run.run_mode == "predict":
        move_aside(Path(RESULT_FILE))
    report = run_with_engine(run) if prompts is None else open_engine(run.engine).predict(run, prompts)
    if as_json:
        print(json.dumps({"engine": report.engine, "action": report.action, **report.numbers, "texts": list(report.texts)}))
    elif report.lines:
        print("\n".join(report.lines))
    return 0


def refuse_dry_run(run: RunConfig) -> None:
    """Raise for `--dry-run` of another engine.

    Raises:
        ConfigError: it is.
    """
    if is_elsewhere(run):
        raise ConfigError("--dry-run", f"is of the native engine; engine is {run.engine}.", fix="codellama check FILE finds what is wrong.")


def predict_elsewhere(arguments: argparse.Namespace, prompts: Sequence[str]) -> int | None:
    """`codellama predict` for a configuration of another engine; None when it is one of ours, or no YAML file.

    Raises:
        ConfigError: an option that shapes our own generation.
    """
    if Path(arguments.model).suffix.lower() not in (".yaml", ".yml"):
        return None
    from mindformers_codellama.config.read import read_run

    run = read_run(arguments.model, overrides=arguments.overrides)
    if not is_elsewhere(run):
        return None
    kept = {*HANDED_OVER, "model", "command", "run", "stream", "batch_size"}
    given = sorted(name for name, value in vars(arguments).items() if name not in kept and value not in (None, "", False, []))
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        fix = "leave it out and write the key in the YAML file (max_decode_length, top_k, ...), or --set engine=native."
        raise ConfigError(names, f"is of the native engine; engine is {run.engine}.", fix=fix)
    run = replace(run, run_mode="predict", input_data=())
    if arguments.load_checkpoint:
        run = replace(run, load_checkpoint=arguments.load_checkpoint)
    if arguments.device:
        run = replace(run, context=replace(run.context, device_target=arguments.device))
    if arguments.batch_size is not None:
        run = replace(run, predict_batch_size=arguments.batch_size)
    return run_elsewhere(run, prompts=prompts, as_json=arguments.as_json)
