"""What `shard`, `merge` and `reshard` have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mindformers_codellama.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_codellama.checkpoint.open import CheckpointReader
    from mindformers_codellama.checkpoint.reshard import ReshardReport
    from mindformers_codellama.checkpoint.reshard_target import Target
    from mindformers_codellama.checkpoint.reshard_write import ShardSource


def add_source(parser: argparse.ArgumentParser, target: str) -> None:
    """SRC, DST and how SRC is read."""
    parser.add_argument("source", metavar="SRC", type=Path, help="folder with rank_N folders, or any whole checkpoint")
    parser.add_argument("target", metavar="DST", type=Path, help=target)
    text = "strategy file or folder of SRC; only for shards that another tool wrote"
    parser.add_argument("--strategy", metavar="PATH", type=Path, help=text)
    parser.add_argument("--source-prefix", metavar="TEXT", default="", help="start of the file names in SRC, when it holds several kinds")
    parser.add_argument("--weights-only", action="store_true", help="leave out optimizer states and the place in training")
    parser.add_argument(
        "--verify", action="store_true", help="compare checksums, and all copies of a part in SRC instead of taking the first"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """How the work is done and told."""
    parser.add_argument("--force", action="store_true", help="replace an existing DST")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    parser.add_argument("--progress", action="store_true", default=None, help="show the bar even when stderr is no terminal")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def add_target(parser: argparse.ArgumentParser) -> None:
    """Into what SRC is cut, and how the files are called."""
    parser.add_argument("--layout", metavar="DPxMPxPP", help="degrees of data, model and stage, such as 2x4x1; else those of --config")
    text = "YAML file (degrees, vocabulary, parallel optimizer, offset as it says), Hugging Face config.json or model name"
    parser.add_argument("--config", metavar="CONFIG", help=text)
    text = "cut embedding and head along the model axis (vocab_emb_dp: False; a pipeline always does)"
    parser.add_argument("--cut-vocabulary", action="store_true", help=text)
    parser.add_argument("--parallel-optimizer", action="store_true", help="cut optimizer states along the data axis (ZeRO stage 1)")
    text = "kilobytes of a rank's own part below which its states stay whole (64)"
    parser.add_argument("--optimizer-threshold", metavar="KB", type=int, default=64, help=text)
    parser.add_argument("--prefix", default="checkpoint_", help="file names are rank_N/PREFIXN.ckpt (checkpoint_)")
    parser.add_argument("--format", choices=("ckpt", "safetensors"), help="of the files; else that of SRC, ckpt for Hugging Face and Meta")
    parser.add_argument("--workers", metavar="N", type=int, help="processes that write (one below 1 GB, else as many as cores, at most 8)")


def shard_source(arguments: argparse.Namespace) -> ShardSource:
    """What is read.

    Raises:
        CheckpointError: it does not exist.
    """
    from mindformers_codellama.checkpoint.reshard_write import ShardSource

    return ShardSource(
        path=arguments.source,
        strategy=arguments.strategy,
        prefix=arguments.source_prefix,
        verify=arguments.verify,
        weights_only=arguments.weights_only,
    )


def shard_target(arguments: argparse.Namespace, reader: CheckpointReader) -> Target:
    """The target of `--layout` and `--config`, and what else says how tensors are cut.

    Raises:
        ConfigError: flags that contradict each other or the model.
    """
    from mindformers_codellama.checkpoint.reshard_target import layout_target, parse_layout
    from mindformers_codellama.layout.cuts import OptimizerCut

    from_yaml = arguments.config and Path(arguments.config).suffix in (".yaml", ".yml")
    if from_yaml and (arguments.cut_vocabulary or arguments.parallel_optimizer):
        fix = "set parallel_config.vocab_emb_dp or parallel.enable_parallel_optimizer in the file."
        raise ConfigError("--config", "is a YAML file, which says how vocabulary and optimizer states are cut.", fix=fix)
    return layout_target(
        reader,
        parse_layout(arguments.layout) if arguments.layout else None,
        arguments.config,
        cut_vocabulary=arguments.cut_vocabulary,
        optimizer_cut=OptimizerCut(threshold=arguments.optimizer_threshold) if arguments.parallel_optimizer else None,
    )


def write_shards(arguments: argparse.Namespace, reader: CheckpointReader, source: ShardSource, target: Target) -> int:
    """Write a folder of shards and print what was done."""
    from mindformers_codellama.checkpoint.reshard import reshard
    from mindformers_codellama.checkpoint.reshard_write import ShardJob

    if arguments.target.suffix in (".ckpt", ".safetensors"):
        raise ConfigError(str(arguments.target), "is a file name; shards go into a folder.", fix="name a folder, or use `codellama merge`.")
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError("--workers", f"got {arguments.workers}, must be at least 1.")
    form = arguments.format or ("safetensors" if _is_safetensors(reader) else "ckpt")
    job = ShardJob(source=source, target=target, destination=arguments.target, prefix=arguments.prefix, form=form)
    report = reshard(job, reader, workers=arguments.workers, force=arguments.force, dry_run=arguments.dry_run, progress=arguments.progress)
    return show(report, as_json=arguments.json)


def show(report: ReshardReport, *, as_json: bool) -> int:
    """Print a report."""
    print(report.to_json() if as_json else summary(report))
    return 0


def summary(report: ReshardReport) -> str:
    """The report for a person."""
    came = f", layout {report.source_layout}" if report.source_layout else ""
    files = f"{report.ranks} files, layout {report.target_layout}" if report.ranks > 1 else "1 file"
    lines = report.head_lines(
        source=f"{report.source_format}{came}", read=f"{report.tensors} tensors", target=files, wrote=f", {report.seconds:.1f} s"
    )
    if report.skipped:
        lines.append(f"{'':12}{report.skipped} files were there already, whole, and stay")
    lines.extend(f"note: {note}" for note in report.notes)
    return "\n".join(lines)


def _is_safetensors(reader: CheckpointReader) -> bool:
    """Whether a checkpoint with our names is in safetensors."""
    return str(reader.metadata["format"]).startswith("ms-") and str(reader.metadata["files"][0]).endswith(".safetensors")
