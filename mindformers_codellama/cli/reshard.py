"""`codellama reshard`: the parts of one layout into those of another."""

from __future__ import annotations

import argparse
from pathlib import Path

from mindformers_codellama.cli.shard_options import add_output, add_source, add_target, shard_source, shard_target, write_shards
from mindformers_codellama.errors import ConfigError

EXAMPLES = """SRC is read as whole tensors, piece by piece, whatever its layout; nothing whole is written on the way. Shards of this suite
say themselves where they belong; for those of MindFormers give --strategy.

examples:
  codellama reshard output output/on_8 --layout 2x4x1
  codellama reshard output output/on_8 --config configs/codellama/finetune_codellama_34b_910b.yaml --verify
  codellama reshard mf_output/checkpoint parts --strategy mf_output/strategy --target-strategy other_run/strategy
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    add_source(parser, "folder to write")
    add_target(parser)
    parser.add_argument("--target-strategy", metavar="PATH", type=Path, help="strategy that says how to cut, instead of --layout")
    parser.add_argument("--whole", action="store_true", help="one whole checkpoint in DST/rank_0, instead of --layout")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Cut anew and print what was done."""
    from mindformers_codellama.checkpoint.reshard_target import Target
    from mindformers_codellama.layout.strategy_files import read_strategy

    ways = [bool(arguments.layout or arguments.config), bool(arguments.target_strategy), arguments.whole]
    if sum(ways) > 1:
        raise ConfigError("--layout", "--layout (or --config), --target-strategy and --whole exclude each other.", fix="give one of them.")
    target = Target(strategy=read_strategy(arguments.target_strategy)) if arguments.target_strategy else Target()
    source = shard_source(arguments)
    reader = source.open()
    if not (arguments.target_strategy or arguments.whole):
        target = shard_target(arguments, reader)
    return write_shards(arguments, reader, source, target)
