"""`codellama quantize`: a floating-point checkpoint to packed bfloat16, int8 or int4 weights."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_codellama.checkpoint.quantize import QuantizeReport

EXAMPLES = """OUTPUT is a directory: config.json, the tokenizer, model.packed.safetensors (mapped, not read, when it is opened) and
manifest.json with checksums and the error of every tensor. Give it to predict, chat or evaluate. Docs: docs/quantization.md

examples:
  codellama quantize CodeLlama-7b-hf codellama-7b-w8 --scheme w8
  codellama quantize output/tiny/pretrain/checkpoint tiny-w4 --scheme w4 --tokenizer codellama_tiny --config CONFIG
  codellama quantize CodeLlama-7b-hf codellama-7b-w4 --scheme w4 --evaluate held_out.mindrecord
  codellama quantize CodeLlama-7b-hf codellama-7b-w4 --scheme w4 --dry-run --json
"""
SHOWN = 10
"""Tensors in the table a terminal gets."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="any checkpoint the package opens: Hugging Face, Meta, .ckpt, shards")
    parser.add_argument("target", metavar="OUTPUT", type=Path, help="directory to write")
    parser.add_argument("--scheme", required=True, choices=("bf16", "w8", "w4"), help="bfloat16, or integers with a scale per group")
    parser.add_argument("--group-size", type=int, default=64, metavar="N", help="columns that share a scale: 64 or 128 (64)")
    text = "YAML file, Hugging Face config.json or model name; needed when SOURCE does not say its configuration"
    parser.add_argument("--config", metavar="CONFIG", help=text)
    parser.add_argument("--tokenizer", metavar="PATH", help="tokenizer.model, its directory or a name such as codellama_tiny, to copy")
    text = "compare with float32 on a mindrecord file or a text: perplexity, KL divergence, agreement"
    parser.add_argument("--evaluate", metavar="DATA", type=Path, help=text)
    parser.add_argument("--evaluate-rows", type=int, default=64, metavar="N", help="rows of DATA to compare, 0 for all (64)")
    parser.add_argument("--verify", action="store_true", help="afterwards read the file again and compare its checksum")
    parser.add_argument("--force", action="store_true", help="replace an existing directory of packed weights")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    parser.add_argument("--progress", action="store_true", default=None, help="show the bar even when stderr is no terminal")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Pack, compare when asked to, and print what was done."""
    from mindformers_codellama.checkpoint.model_source import named_config
    from mindformers_codellama.checkpoint.packed_open import open_packed
    from mindformers_codellama.checkpoint.quantize import quantize_checkpoint

    if arguments.evaluate is not None and not arguments.evaluate.exists():
        raise ConfigError("--evaluate", f"{arguments.evaluate} does not exist.", fix="give a mindrecord file or a text file.")
    report = quantize_checkpoint(
        arguments.source,
        arguments.target,
        scheme=arguments.scheme,
        group=arguments.group_size,
        config=named_config(arguments.config) if arguments.config else None,
        tokenizer=tokenizer_path(arguments.tokenizer),
        force=arguments.force,
        dry_run=arguments.dry_run,
        progress=arguments.progress,
    )
    if arguments.verify and not arguments.dry_run:
        open_packed(arguments.target, verify=True)
    if arguments.evaluate is not None and not arguments.dry_run:
        report = replace(report, evaluation=evaluation(arguments))
    print(report.to_json() if arguments.json else summary(report))
    return 0


def tokenizer_path(named: str | None) -> Path | None:
    """The file or directory of `--tokenizer`, which may be a registry name."""
    if named is None or Path(named).exists():
        return None if named is None else Path(named)
    from mindformers_codellama.text.auto import AutoTokenizer

    return Path(AutoTokenizer.from_pretrained(named).path)


def evaluation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare the written weights with their source, and write the numbers into the manifest."""
    from tqdm import tqdm

    from mindformers_codellama.pipelines.compare_run import compare_with_source

    with tqdm(unit="row", desc="comparing", disable=not (arguments.progress or sys.stderr.isatty())) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return compare_with_source(arguments.source, arguments.target, arguments.evaluate, rows=arguments.evaluate_rows, progress=progress)


def summary(report: QuantizeReport) -> str:
    """The report for a person."""
    from mindformers_codellama.checkpoint.files import size_text

    form = f"{report.form}, groups of {report.group}" if report.group else report.form
    lines = [
        *report.head_lines(
            source=report.source_format,
            read=size_text(report.bytes_read),
            target=form,
            wrote=f", {report.bits_per_weight:.2f} bits per parameter",
        ),
        f"{'':12}{report.tensors} tensors, {report.parameters:,} parameters, {report.seconds:.1f} s",
    ]
    worst_first = sorted(report.errors.items(), key=lambda item: -item[1]["relative"])
    if worst_first:
        lines += ["", f"{'tensor (largest relative error first)':48}{'worst':>10}{'mean':>10}{'relative':>10}"]
        lines += [f"{name:48}{e['worst']:10.2e}{e['mean']:10.2e}{e['relative']:10.2e}" for name, e in worst_first[:SHOWN]]
        if len(worst_first) > SHOWN:
            lines.append(f"... {len(worst_first) - SHOWN} more in manifest.json and with --json")
    if report.evaluation:
        found = report.evaluation
        lines += [
            "",
            f"on {found['data']}, {found['tokens']} tokens:",
            f"  perplexity      {found['perplexity']:.4f}, float32 {found['perplexity_float32']:.4f}",
            f"  KL divergence   mean {found['mean_kl']:.3e}, largest {found['max_kl']:.3e} nats",
            f"  same top token  {found['top1_agreement']:.2%}",
        ]
    return "\n".join(lines)
