"""`codellama convert`: weights from any supported form to any other."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mindformers_codellama.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_codellama.checkpoint.convert import ConvertReport

EXAMPLES = """SRC is found out by itself: a Hugging Face directory (safetensors or pytorch_model*.bin), a Meta
directory (params.json and consolidated.*.pth), a MindSpore .ckpt or a directory of them, a .safetensors
file or one of our directories. No torch is needed, and no pickle is executed.

examples:
  codellama convert CodeLlama-7b-hf codellama_7b.ckpt --dtype float16
  codellama convert CodeLlama-7b codellama_7b.ckpt                    # Meta's own files
  codellama convert output/checkpoint/rank_0/x-2_100.ckpt my-model-hf --to hf --config configs/codellama/run.yaml
  codellama convert CodeLlama-34b-hf codellama_34b.ckpt --dry-run --json
"""
SHORT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("source", metavar="SRC", type=Path, help="checkpoint file or directory")
    parser.add_argument("target", metavar="DST", type=Path, help="a .ckpt file, a .safetensors file, or a directory")
    text = "Meta's params.json; SRC is a .ckpt of an old MindFormers whose wq and wk are in Meta's rotary order"
    parser.add_argument("--rotary-pairs", metavar="PARAMS", type=Path, help=text)
    add_target_arguments(parser)


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """What DST is to be, and how the work is shown; for every command that writes a model anew."""
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
    """Convert and print what was done."""
    return write_target(arguments, rotary_pairs=arguments.rotary_pairs)


def write_target(arguments: argparse.Namespace, *, rotary_pairs: Path | None = None, adapter: Path | None = None) -> int:
    """Convert SRC to DST as the arguments of `add_target_arguments` say, and print what was done."""
    from mindformers_codellama.checkpoint.convert import Options, convert
    from mindformers_codellama.checkpoint.directories import MAX_SHARD_BYTES
    from mindformers_codellama.checkpoint.model_source import named_config

    options = Options(
        dry_run=arguments.dry_run,
        max_shard_bytes=arguments.max_shard_size or MAX_SHARD_BYTES,
        tokenizer=arguments.tokenizer,
        rotary_pairs=rotary_pairs,
        adapter=adapter,
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


def summary(report: ConvertReport) -> str:
    """The report for a person."""
    from mindformers_codellama.checkpoint.files import size_text

    lines = [
        *report.head_lines(
            source=report.source_format,
            read=size_text(report.bytes_read),
            target=", ".join((report.target_format, *report.dtypes)),
        ),
        f"{'':12}{report.tensors} tensors, {report.parameters:,} parameters, {report.seconds:.1f} s",
    ]
    if report.left_out:
        shown = ", ".join(report.left_out[:3]) + (", ..." if len(report.left_out) > 3 else "")
        lines.append(f"{'':12}left out on purpose: {len(report.left_out)} ({shown})")
    lines.extend(f"note: {note}" for note in report.notes)
    return "\n".join(lines)


def byte_count(text: str) -> int:
    """`500MB`, `5GB` or `2000000` as bytes; 1 GB is 10^9 as in transformers.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[found[2].upper()]) if found else 0
    if size < 1:
        raise ConfigError("--max-shard-size", f"got {text!r}.", fix="write 5GB, 500MB or a number of bytes.")
    return size
