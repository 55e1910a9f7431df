"""`codellama merge-lora`: a model and its low-rank adapter to one model."""

from __future__ import annotations

import argparse
from pathlib import Path

from mindformers_codellama.cli.convert import SHORT_DTYPES, byte_count, summary

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
    parser.add_argument("--to", choices=("ms", "hf", "safetensors"), help="form of DST; by default its name says it")
    dtypes = ("keep", "float32", "float16", "bfloat16", *SHORT_DTYPES)
    parser.add_argument("--dtype", choices=dtypes, default="keep", help="type of every weight in DST (keep)")
    text = "YAML file, Hugging Face config.json or model name; needed to write hf when SRC does not say its configuration"
    parser.add_argument("--config", metavar="CONFIG", help=text)
    parser.add_argument("--tokenizer", metavar="PATH", type=Path, help="tokenizer.model or directory to copy into DST")
    parser.add_argument("--max-shard-size", metavar="SIZE", type=byte_count, default=None, help="largest weight file of a directory (5GB)")
    parser.add_argument("--force", action="store_true", help="replace an existing DST")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    parser.add_argument("--progress", action="store_true", default=None, help="show the bar even when stderr is no terminal")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Merge and print what was done."""
    from mindformers_codellama.checkpoint.convert import Options, convert
    from mindformers_codellama.checkpoint.directories import MAX_SHARD_BYTES
    from mindformers_codellama.checkpoint.model_source import named_config

    options = Options(
        dry_run=arguments.dry_run,
        max_shard_bytes=arguments.max_shard_size or MAX_SHARD_BYTES,
        tokenizer=arguments.tokenizer,
        adapter=arguments.adapter,
    )
    report = convert(
        arguments.source,
        arguments.target,
        to=arguments.to,
        dtype=SHORT_DTYPES.get(arguments.dtype, arguments.dtype),
        force=arguments.force,
        progress=arguments.progress,
        config=named_config(arguments.config) if arguments.config else None,
        options=options,
    )
    print(report.to_json() if arguments.json else summary(report))
    return 0
