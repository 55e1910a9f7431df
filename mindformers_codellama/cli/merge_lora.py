"""`codellama merge-lora`: a model and its low-rank adapter to one model."""

from __future__ import annotations

import argparse
from pathlib import Path

from mindformers_codellama.cli.convert import add_target_arguments, write_target

EXAMPLES = """SRC is anything codellama convert takes, ADAPTER a directory of PEFT's files (adapter_config.json and
adapter_model.safetensors), also one codellama finetune wrote. The sum is made in float32 and rounded once.

examples:
  codellama merge-lora CodeLlama-7b-hf output/lora/adapter CodeLlama-7b-ours --to hf
  codellama merge-lora CodeLlama-7b-hf output/lora/adapter codellama_7b_ours.ckpt --dtype float16
  codellama merge-lora output/tiny/pretrain/checkpoint output/tiny/lora/adapter output/tiny/merged.ckpt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("source", metavar="SRC", type=Path, help="the model the adapter was trained on")
    parser.add_argument("adapter", metavar="ADAPTER", type=Path, help="directory of the adapter")
    parser.add_argument("target", metavar="DST", type=Path, help="a .ckpt file, a .safetensors file, or a directory")
    add_target_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Merge and print what was done."""
    return write_target(arguments, adapter=arguments.adapter)
