"""`codellama export`: MindIR graphs of a model, for MindSpore and MindSpore Lite; and the comparison of an older export."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_codellama.config.sections import RunConfig
    from mindformers_codellama.export.request import ExportRequest, ExportSizes
    from mindformers_codellama.export.run import ExportReport
    from mindformers_codellama.pipelines.open_model import Source

EXAMPLES = """OUTPUT gets mindir_full_checkpoint/ (reads prompts), mindir_inc_checkpoint/ (one more token) and export/manifest.json;
nothing appears under these names before the graphs were loaded again and gave the model's logits. Docs: docs/export.md

examples:
  codellama export configs/codellama/predict_codellama_tiny.yaml --load-checkpoint CKPT --output output/export
  codellama export CodeLlama-7b-hf --seq-length 2048 --output codellama-7b-mindir --dry-run
  codellama export CodeLlama-7b-hf --seq-length 2048 --dynamic --single --output codellama-7b-mindir
  codellama launch --ranks 2 -- export configs/codellama/predict_codellama_tiny_2p.yaml --load-checkpoint CKPT --output output/export
  codellama export CodeLlama-7b-hf --seq-length 2048 --operators codellama-cpu --weights int8 --output codellama-7b-mindir
  codellama export --verify-only output/export
  codellama export CodeLlama-7b-hf --seq-length 256 --dtype float32 --format onnx --output codellama-onnx
"""
REFUSED_FORMATS = {
    "air": "AIR is written by Ascend's own MindSpore only, and is replaced by MindIR",
    "om": "OM files are made from MindIR by Ascend's converter_lite",
    "tflite": "MindSpore does not write it",
    "torchscript": "MindSpore does not write it",
    "gguf": "it holds weights of llama.cpp, no graphs",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to export, how, and where to."""
    parser.add_argument("model", nargs="?", metavar="CONFIG|DIR", help="YAML file, Hugging Face directory, or checkpoint with a manifest")
    parser.add_argument("--output", type=Path, metavar="DIR", help="export directory; default: output_dir of the YAML file")
    group = parser.add_argument_group("model")
    group.add_argument("--load-checkpoint", "--load_checkpoint", default="", metavar="PATH", help=".ckpt, .safetensors or directory")
    group.add_argument("--tokenizer", default="", metavar="PATH", help="tokenizer.model, its directory, or a name such as codellama_tiny")
    group.add_argument("--seq-length", type=int, metavar="N", help="positions for prompt and answer together")
    text = "type of weights and products; bfloat16 needs --no-verify on a CPU; default: the configuration's"
    group.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help=text)
    text = "form the matrices are held in; standard operators make int8 and int4 floating again where they are multiplied, and have no "
    text += "bfloat16; default: the configuration's"
    group.add_argument("--weights", choices=("auto", "float32", "bfloat16", "int8", "int4"), help=text)
    group.add_argument("--device", choices=("CPU", "Ascend"), help="where graphs are built and compared; default: the configuration's")
    text = "set a key of the YAML file; may be repeated"
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=text)
    group = parser.add_argument_group("graphs")
    group.add_argument("--batch-size", type=int, metavar="N", help="rows of a call; default: the configuration's")
    text = "prompts of any length up to --seq-length, instead of padding all to it"
    group.add_argument("--dynamic", action=argparse.BooleanOptionalAction, help=text)
    group.add_argument("--single", action="store_true", help="one graph for prompts and steps: never two copies of the weights in memory")
    text = "blocks of a paged cache that all rows share, one of them unused; default: every row has its own positions"
    group.add_argument("--paged-blocks", type=int, default=0, metavar="N", help=text)
    group.add_argument("--block-size", type=int, default=16, metavar="N", help="positions of a block (16)")
    text = "standard: run wherever MindSpore does; codellama-cpu: this package's kernels, faster, on CPUs only (%(default)s)"
    group.add_argument("--operators", choices=("standard", "codellama-cpu"), default="standard", help=text)
    text = "whose name the group of ranks has in the graphs; default: the device's"
    group.add_argument("--target", choices=("cpu", "ascend"), help=text)
    group.add_argument(
        "--format", default="mindir", metavar="FORMAT", help="mindir, or onnx (OUTPUT/onnx, the cache as inputs and outputs)"
    )
    text = "encrypt with the key of a file (16, 24 or 32 bytes, or their hexadecimal digits); also for --verify-only"
    group.add_argument("--key-file", type=Path, metavar="FILE", help=text)
    group = parser.add_argument_group("work")
    group.add_argument("--no-verify", dest="verify", action="store_false", help="do not compare; the manifest says so")
    group.add_argument("--verify-only", type=Path, metavar="DIR", help="compare an older export with what its model said, and stop")
    group.add_argument("--force", action="store_true", help="replace an older export")
    group.add_argument("--dry-run", action="store_true", help="check everything and print the sizes, write nothing")
    group.add_argument("--progress", action="store_true", default=None, help="show the bar even when stderr is no terminal")
    group.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Export, or compare."""
    if arguments.verify_only is not None:
        return verify_only(arguments)
    if not arguments.model:
        raise ConfigError("CONFIG|DIR", "nothing to export is named.", fix="codellama export CONFIG --output DIR; see --help.")
    check_format(arguments.format)
    from mindformers_codellama.pipelines.open_model import find_source, is_yaml

    source = adjusted(find_source(arguments.model, arguments.overrides), arguments)
    if is_yaml(arguments.model):
        from mindformers_codellama.config.read import read_run

        said = read_run(arguments.model, overrides=arguments.overrides)
        arguments.output = arguments.output or Path(said.output_dir)
        arguments.dynamic = said.model.is_dynamic if arguments.dynamic is None else arguments.dynamic
    return export(source, request_of(source, arguments), arguments)


def run_config(run_section: RunConfig) -> int:
    """`run_mode: export` of a configuration, into its `output_dir`."""
    from mindformers_codellama.pipelines.open_model import source_of_run

    if not run_section.model.use_past:
        fix = "write use_past: True."
        raise ConfigError("model.model_config.use_past", "got False, but exported graphs keep keys and values.", fix=fix)
    names = ["--output", run_section.output_dir, *(["--dynamic"] if run_section.model.is_dynamic else [])]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(["run", *names])
    source = adjusted(source_of_run(run_section), arguments)
    return export(source, request_of(source, arguments), arguments)


def check_format(name: str) -> None:
    """Refuse what is not written, with the reason.

    Raises:
        ConfigError: anything but `mindir` and `onnx`.
    """
    if name.lower() not in ("mindir", "onnx"):
        reason = REFUSED_FORMATS.get(name.lower(), "it is not known")
        raise ConfigError("--format", f"got {name!r}: {reason}.", fix="leave it out: MindIR is written; or write onnx.")


def adjusted(source: Source, arguments: argparse.Namespace) -> Source:
    """The source with the flags laid over it."""
    config, context = source.config, source.context
    if arguments.seq_length is not None:
        config = replace(config, seq_length=arguments.seq_length)
    if arguments.dtype is not None:
        config = replace(config, compute_dtype=arguments.dtype, param_init_dtype=arguments.dtype)
    if arguments.device is not None:
        context = replace(context, device_target=arguments.device)
    if arguments.load_checkpoint:
        source = replace(source, weights=arguments.load_checkpoint)
    if arguments.tokenizer:
        source = replace(source, tokenizer=arguments.tokenizer, tokenizer_options={})
    form = source.form if arguments.weights is None else arguments.weights
    if form == "float32":
        config, form = replace(config, compute_dtype="float32", param_init_dtype="float32"), "auto"
    return replace(source, config=config, context=context, form=form)


def request_of(source: Source, arguments: argparse.Namespace) -> ExportRequest:
    """What the flags ask for; the rest is the configuration's."""
    from mindformers_codellama.export.request import ExportRequest

    if arguments.output is None:
        raise ConfigError("--output", "is missing.", fix="give the directory to export into: --output DIR.")
    return ExportRequest(
        folder=arguments.output.expanduser(),
        batch_size=source.batch_size if arguments.batch_size is None else arguments.batch_size,
        dynamic=bool(arguments.dynamic),
        single=arguments.single,
        operators=arguments.operators,
        form="" if source.form == "auto" else source.form,
        blocks=arguments.paged_blocks,
        block_size=arguments.block_size,
        target=arguments.target or source.context.device_target.lower(),
        verify=arguments.verify,
        key_file=arguments.key_file,
        force=arguments.force,
    )


def export(source: Source, request: ExportRequest, arguments: argparse.Namespace) -> int:
    """Do it and say what was done; of several ranks the first one says it."""
    from mindformers_codellama.errors import raise_all
    from mindformers_codellama.export.write import check_place
    from mindformers_codellama.mindir.key import read_key
    from mindformers_codellama.pipelines.export_model import check, completed, export_source, sizes_of

    if request.key_file is not None:
        read_key(request.key_file)
    onnx = arguments.format.lower() == "onnx"
    request = completed(source, request)
    raise_all(check(source, request, onnx=onnx))
    sizes = sizes_of(source, request)
    if arguments.dry_run:
        check_place(request.folder, sizes, force=request.force)
        print(json.dumps(plan(source, request, sizes), indent=2) if arguments.json else plan_text(plan(source, request, sizes)))
        return 0
    with bar(arguments, sizes.weights * (3 if request.verify and not request.single else 2)) as tell:
        report = export_source(source, request, onnx=onnx, progress=tell)
    if is_first_rank():
        print(json.dumps(asdict(report), indent=2) if arguments.json else summary(report))
    return 0


def verify_only(arguments: argparse.Namespace) -> int:
    """Compare an export directory with the logits it was written with."""
    from mindformers_codellama.config.sections_parallel import ContextSection
    from mindformers_codellama.mindir.manifest import read_export_manifest
    from mindformers_codellama.pipelines.export_model import verify_export

    context = ContextSection(device_target=arguments.device or "CPU")
    manifest = read_export_manifest(arguments.verify_only)
    with bar(arguments, sum(manifest.record(name).size for name in manifest.rank_files(0))) as tell:
        found = verify_export(arguments.verify_only, context=context, key_file=arguments.key_file, progress=tell)
    if is_first_rank():
        print(json.dumps(found, indent=2) if arguments.json else f"{'verified':12}{arguments.verify_only}: {verdict(found)}")
    return 0


def is_first_rank() -> bool:
    """Whether this process is the one of its job that prints."""
    from mindformers_codellama.parallel.comm import connect, connected

    return not connected() or connect()[0] == 0


def bar(arguments: argparse.Namespace, total: int) -> Any:
    """A progress bar of bytes, as a context manager that gives its `update`."""
    from contextlib import contextmanager

    from tqdm import tqdm

    @contextmanager
    def shown() -> Any:
        shows = arguments.progress or sys.stderr.isatty()
        with tqdm(total=total, unit="B", unit_scale=True, desc="export", disable=not shows) as line:
            yield line.update

    return shown()


def plan(source: Source, request: ExportRequest, sizes: ExportSizes) -> dict[str, Any]:
    """What would be done, for `--dry-run`."""
    return {
        "output": str(request.folder),
        "graphs": list(request.roles),
        "ranks": source.layout.ranks,
        "rows": request.batch_size,
        "positions": source.config.seq_length,
        "dynamic": request.dynamic,
        "operators": request.operators,
        "weights": request.form or source.config.param_init_dtype,
        "disk_per_rank": sizes.disk,
        "memory_per_rank": sizes.memory_verifying if request.verify else sizes.memory,
    }


def plan_text(found: dict[str, Any]) -> str:
    """The same for a person."""
    from mindformers_codellama.checkpoint.files import size_text

    shapes = "any length up to" if found["dynamic"] or found["operators"] != "standard" else "exactly"
    return "\n".join(
        [
            f"{'would write':12}{found['output']}: graphs {', '.join(found['graphs'])} of {found['ranks']} rank(s)",
            f"{'':12}{found['rows']} row(s), prompts of {shapes} {found['positions']} positions",
            f"{'':12}weights {found['weights']}, operators {found['operators']}",
            f"{'disk':12}about {size_text(found['disk_per_rank'])} per rank",
            f"{'memory':12}at most {size_text(found['memory_per_rank'])} per rank beside MindSpore itself",
        ]
    )


def summary(report: ExportReport) -> str:
    """The report for a person."""
    from mindformers_codellama.checkpoint.files import size_text

    lines = [f"{'wrote':12}{report.folder}: {size_text(sum(report.files.values()))} in {report.seconds:.1f} s"]
    lines += [f"{'':12}{name}: {size_text(size) if size else 'the same weights'}" for name, size in report.files.items()]
    return "\n".join([*lines, f"{'verified' if report.verification['verified'] else 'unverified':12}{verdict(report.verification)}"])


def verdict(found: dict[str, Any]) -> str:
    """What the comparison found, in a line."""
    if not found["verified"]:
        return str(found["reason"])
    text = f", text {found['text']!r}" if found.get("text") else ""
    error = f"logits within {found['max_logit_error']:.2g} of the model's (allowed {found['bound']:.2g})"
    return f"{error}, the same {found['steps']} tokens{text}"
