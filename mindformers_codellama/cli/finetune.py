"""`codellama finetune CONFIG`: train from the weights of `load_checkpoint`; optimizer and step start anew."""

from __future__ import annotations

import argparse

from mindformers_codellama.cli import train

EXAMPLES = """examples:
  codellama finetune configs/codellama/finetune_codellama_tiny.yaml
  codellama finetune configs/codellama/finetune_codellama_tiny.yaml --set load_checkpoint=path/of/a/hugging-face/directory
  codellama finetune configs/codellama/finetune_codellama_tiny.yaml --resume
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `codellama train`."""
    train.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train with run_mode finetune, which needs weights to start from."""
    return train.start(arguments, default_mode="finetune")
