"""`codellama train CONFIG`: pretrain, finetune or resume as the configuration says."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from mindformers_codellama.cli.engine import is_elsewhere, refuse_dry_run, run_elsewhere
from mindformers_codellama.config.read import read_run

if TYPE_CHECKING:
    from mindformers_codellama.config.sections import RunConfig
    from mindformers_codellama.config.sections_model import ModelSection
    from mindformers_codellama.train.run import TrainResult

EXAMPLES = """examples:
  codellama train configs/codellama/pretrain_codellama_tiny.yaml --dry-run
  codellama train configs/codellama/pretrain_codellama_tiny.yaml --set runner_config.epochs=2 --set output_dir=output/two
  codellama train configs/codellama/pretrain_codellama_tiny.yaml --resume
"""

TRAINING_MODES = ("train", "finetune")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, overrides, and how to start."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set one key; may be repeated")
    parser.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint in output_dir")
    parser.add_argument("--force", action="store_true", help="replace checkpoints of another run, or later than the resumed one")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be done, and stop")
    parser.add_argument(
        "--progress", choices=("auto", "bar", "lines"), default="auto", help="a bar, or MindFormers' lines (auto: a bar in a terminal)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train; a file whose run_mode is neither train nor finetune is trained as `train`."""
    return start(arguments, default_mode="train")


def start(arguments: argparse.Namespace, *, default_mode: str) -> int:
    """Read the configuration, apply the flags and train."""
    config = configured(arguments, default_mode=default_mode)
    if arguments.dry_run:
        refuse_dry_run(config)
        from mindformers_codellama.train.outline import outline

        print("\n".join([*outline(config, force=arguments.force), "dry run: nothing was trained."]))
        return 0
    bar = arguments.progress == "bar" or (arguments.progress == "auto" and sys.stderr.isatty())
    return run_config(config, force=arguments.force, bar=bar)


def configured(arguments: argparse.Namespace, *, default_mode: str) -> RunConfig:
    """The configuration with the flags applied; a file whose run_mode is no training takes `default_mode`."""
    config = read_run(arguments.config, overrides=arguments.overrides)
    if config.run_mode not in TRAINING_MODES or default_mode == "finetune":
        config = replace(config, run_mode=default_mode)
    if arguments.resume and config.model.model_config.pet_config is not None:
        config = replace(config, model=named_base(config.model, config.start_weights))
    if arguments.resume:
        config = replace(config, resume_training=True, load_checkpoint=written_to(config))
    return config


def named_base(model: ModelSection, weights: str) -> ModelSection:
    """The model with the weights below its adapter in the key that is left when `load_checkpoint` names the run to go on with."""
    return replace(model, model_config=replace(model.model_config, checkpoint_name_or_path=weights))


def written_to(config: RunConfig) -> str:
    """The folder below which a run writes its checkpoints."""
    monitor = config.checkpoint_monitor
    return monitor.directory if monitor and monitor.directory else config.output_dir


def run_config(config: RunConfig, *, force: bool = False, bar: bool = False) -> int:
    """Train one configuration and print what came out, on the first rank."""
    if is_elsewhere(config):
        return run_elsewhere(config)
    if config.only_save_strategy:
        from mindformers_codellama.train.strategies import save_strategies_only, strategy_folder

        if not save_strategies_only(config):
            print(f"strategy files: {strategy_folder(config)}")
        return 0
    from mindformers_codellama.train.run import train

    result = train(config, force=force, bar=bar)
    if not result.rank:
        print(summary(result))
    return 0


def summary(result: TrainResult) -> str:
    """The curve, the numbers and the files of a finished run."""
    from mindformers_codellama.train.monitor import terminal_curve

    lines = [terminal_curve(result.losses)]
    lines.append(f"{result.step} steps in {result.seconds:.0f} s, {result.tokens_per_second:.0f} tokens/s with compilation")
    if result.updates != result.step:
        lines.append(f"{result.step - result.updates} updates were skipped because gradients overflowed")
    if result.evaluation:
        lines.append(f"evaluation: loss {result.evaluation.loss:.4f}, PPL {result.evaluation.perplexity:.3f}")
    for name, path in result.files.items():
        if path:
            lines.append(f"{name}: {path}")
    return "\n".join(lines)
