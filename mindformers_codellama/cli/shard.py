"""`codellama shard`: a whole checkpoint into the parts of every rank."""

from __future__ import annotations

import argparse

from mindformers_codellama.cli.shard_options import add_output, add_source, add_target, shard_source, shard_target, write_shards

EXAMPLES = """DST gets rank_N/checkpoint_N.ckpt for every rank, strategy/ckpt_strategy_rank_N.ckpt (for MindSpore's own tools) and
manifest.json with sizes and hashes. Files appear whole or not at all; after a kill the same command goes on where it was.

examples:
  codellama shard CodeLlama-34b-hf output/34b_8p --layout 1x8x1
  codellama shard output/checkpoint/rank_0/x-2_100.ckpt output/parts --layout 2x2x2 --parallel-optimizer
  codellama shard codellama_34b.ckpt output/parts --config configs/codellama/run_codellama_34b_910b.yaml --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    add_source(parser, "folder to write")
    add_target(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Cut and print what was done."""
    source = shard_source(arguments)
    reader = source.open()
    return write_shards(arguments, reader, source, shard_target(arguments, reader))
