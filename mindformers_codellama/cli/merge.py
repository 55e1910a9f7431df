"""`codellama merge`: the parts of all ranks into one whole checkpoint."""

from __future__ import annotations

import argparse

from mindformers_codellama.cli.shard_options import add_output, add_source, shard_source, show
from mindformers_codellama.errors import ConfigError

EXAMPLES = """SRC holds rank_0, rank_1, ... directly or in checkpoint/ or checkpoint_network/; of several steps the newest that is complete
on all ranks is taken. To get a Hugging Face directory give SRC to `codellama convert`.

examples:
  codellama merge output codellama_34b.ckpt
  codellama merge output weights.safetensors --weights-only --verify
  codellama merge mf_output/checkpoint whole.ckpt --strategy mf_output/strategy
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    add_source(parser, "a .ckpt or .safetensors file")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Join and print what was done."""
    from mindformers_codellama.checkpoint.reshard import reshard
    from mindformers_codellama.checkpoint.reshard_target import Target
    from mindformers_codellama.checkpoint.reshard_write import ShardJob

    if arguments.target.suffix not in (".ckpt", ".safetensors"):
        fix = "name a .ckpt or .safetensors file; for a Hugging Face directory use `codellama convert`."
        raise ConfigError(str(arguments.target), "is no file name of a checkpoint.", fix=fix)
    source = shard_source(arguments)
    reader = source.open()
    job = ShardJob(source=source, target=Target(), destination=arguments.target)
    report = reshard(job, reader, force=arguments.force, dry_run=arguments.dry_run, progress=arguments.progress)
    return show(report, as_json=arguments.json)
