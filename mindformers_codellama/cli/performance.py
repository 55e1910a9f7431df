"""`codellama performance`: tokens per second over batch sizes and lengths, in the tables other suites write."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.performance_words import Sweep, add_case_arguments, sweep_from
from mindformers_codellama.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.open_model import OpenedModel
    from mindformers_codellama.pipelines.performance import Timing

logger = logging.getLogger(__name__)

PROMPTS = (
    "def quick_sort(values):\n",
    "# Read a file and count the words in it\n",
    "class Stack:\n    def push(self, item):\n",
    "import json\n\ndef load_settings(path):\n",
)
"""What the rows of a batch begin with, in turn."""
MODEL_TYPES = {"pa_fp32": "float32", "pa_fp16": "float16", "pa_bf16": "bfloat16"}
SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
NPU = Path("/dev/davinci_manager")
"""Exists where Ascend's driver is loaded."""

EXAMPLES = """examples:
  codellama performance CONFIG --load-checkpoint CKPT --dry-run           # the default: 36 cases for each of 5 batch sizes
  codellama performance DIR --batch 1,4 --multicase 0 --seqlen-in 128 --seqlen-out 128
  codellama performance DIR --set-case-pair 1 --seqlen-in-pair [256,512] --seqlen-out-pair [64,512]
  codellama performance DIR --case-pairs "[[2048,2048],[256,256]]" --batch 1 --max-seq-length 4096    # files of the ATB model tests
  codellama launch --ranks 2 -- performance CONFIG --world-size 2
With the words of other suites: scripts/run_performance.sh --help. Columns: docs/performance.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, cases, output."""
    parser.add_argument(
        "model", metavar="CONFIG|DIR", help="YAML file, Hugging Face directory, checkpoint with a manifest, or registry name"
    )
    group = parser.add_argument_group("model")
    group.add_argument("--load-checkpoint", "--load_checkpoint", default="", metavar="PATH", help="weights, instead of the model's own")
    group.add_argument("--tokenizer", default="", metavar="PATH", help="tokenizer.model, its directory, or a name such as codellama_tiny")
    group.add_argument("--weights", default="", metavar="FORM", help="float32, bfloat16, int8 or int4; default: as the model says")
    group.add_argument(
        "--model-type", choices=tuple(MODEL_TYPES), default="", help="type of weights and products, in the ATB model tests' words"
    )
    group.add_argument("--device", choices=("CPU", "Ascend"), help="default: the configuration's, CPU for a directory")
    group.add_argument("--chip", choices=("d9", "d3", "cpu"), default="", help="Ascend 910 or 310 as the ATB scripts name them; or cpu")
    group.add_argument("--world-size", type=int, metavar="N", help="ranks that hold the model together, started with codellama launch (1)")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="set a key of the YAML file")
    add_case_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="where the CSV files go (the current folder)")
    group.add_argument("--model-name", "--model_name", default="", metavar="NAME", help="in file names; default: the model's file name")
    group.add_argument("--device-id", type=int, default=0, metavar="N", help="number of the NPU, in the file name; on a CPU it says cpu")
    group.add_argument("--dry-run", action="store_true", help="list the cases and the files, and compute nothing")


def run(arguments: argparse.Namespace) -> int:
    """Check the cases, open the model, measure."""
    sweep = sweep_from(arguments)
    name = arguments.model_name or Path(arguments.model).stem or "model"
    if "/" in name:
        raise ConfigError("--model-name", f"got {name!r}; it becomes part of a file name and has no slash.")
    if arguments.world_size is not None and arguments.world_size < 1:
        raise ConfigError("--world-size", f"got {arguments.world_size}, must be at least 1.")
    arguments.device = device_of(arguments)
    if arguments.dry_run:
        show(arguments, sweep, name)
        return 0
    opened = open_for(arguments, sweep)
    for timing in measured(arguments, sweep, name, opened):
        if opened.comm.rank == 0:
            print(line(timing), flush=True)
    return 0


def device_of(arguments: argparse.Namespace) -> str | None:
    """`CPU` or `Ascend`, None for the configuration's; a chip this machine does not have becomes the CPU, and is told."""
    chip: str = arguments.chip
    if not chip:
        return str(arguments.device) if arguments.device else None
    if chip == "cpu":
        return "CPU"
    if arguments.device == "CPU" or not NPU.exists():
        logger.warning("%s names an Ascend chip, but there is none here: measuring the CPU, and the files say cpu.", chip)
        return "CPU"
    return "Ascend"


def open_for(arguments: argparse.Namespace, sweep: Sweep) -> OpenedModel:
    """The model with room for the longest case."""
    from mindformers_codellama.layout.ranks import Layout
    from mindformers_codellama.pipelines.open_model import find_source, is_yaml, open_source

    if arguments.overrides and not is_yaml(arguments.model):
        raise ConfigError("--set", "sets keys of a YAML file, but the model is not one.", fix="give a YAML file.")
    found = find_source(arguments.model, arguments.overrides)
    device = arguments.device or found.context.device_target
    dtype, form = number_types(arguments, device)
    config = replace(found.config, seq_length=max(case.positions for case in sweep.cases))
    if dtype:
        config = replace(config, compute_dtype=dtype, param_init_dtype=dtype)
    source = replace(found, config=config, context=replace(found.context, device_target=device), form=form or found.form)
    if arguments.load_checkpoint:
        source = replace(source, weights=arguments.load_checkpoint)
    if arguments.tokenizer:
        source = replace(source, tokenizer=arguments.tokenizer, tokenizer_options={})
    if arguments.world_size is not None:
        source = replace(source, layout=Layout(model_parallel=arguments.world_size))
    arguments.device = device
    return open_source(source)


def number_types(arguments: argparse.Namespace, device: str) -> tuple[str, str]:
    """(type of weights and products, weight form) the arguments ask for, empty for the model's own.

    bfloat16 on a CPU is a form of the weights: their products are computed by the kernels.
    """
    dtype = MODEL_TYPES.get(arguments.model_type, "")
    if arguments.weights:
        return "", arguments.weights
    return ("", dtype) if dtype == "bfloat16" and device == "CPU" else (dtype, "")


def measured(arguments: argparse.Namespace, sweep: Sweep, name: str, opened: OpenedModel) -> Iterator[Timing]:
    """Every case, written to its file as soon as it is known; rank 0 writes."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from mindformers_codellama.pipelines import performance

    decoder = opened.model.decoder(use_past=True)
    keep = keeper(arguments, sweep, name) if opened.comm.rank == 0 else lambda timing: None
    prompts = [opened.tokenizer.encode(text) for text in PROMPTS]
    quiet = opened.comm.rank != 0 or not sys.stderr.isatty()
    with logging_redirect_tqdm(), tqdm(sweep.cases, desc="cases", disable=quiet, leave=False) as cases:
        for number, case in enumerate(cases):
            cases.set_postfix_str(f"batch {case.batch}, {case.input_length} in, {case.output_length} out")
            if sweep.is_model_test:
                rows = performance.random_rows(decoder.vocab_size, case, number)
                timing = performance.time_together(decoder, rows, opened.generation, case)
            else:
                rows = performance.fixed_length(prompts, case, opened.generation.pad_token_id)
                timing = performance.time_separately(decoder, rows, opened.generation, case)
            keep(timing)
            yield timing


def keeper(arguments: argparse.Namespace, sweep: Sweep, name: str) -> Any:
    """A function that files a timing."""
    from mindformers_codellama.pipelines.performance_files import SweepFile

    if not sweep.is_model_test:
        file = SweepFile(arguments.output, name, device_word(arguments))
        file.begin()
        return file.add
    kept: dict[int, list[Timing]] = {}

    def keep(timing: Timing) -> None:
        kept.setdefault(timing.case.batch, []).append(timing)
        model_test_files(arguments, name, timing.case.batch).write(kept[timing.case.batch])

    return keep


def model_test_files(arguments: argparse.Namespace, name: str, batch: int) -> Any:
    """The two files of a batch size."""
    from mindformers_codellama.pipelines.performance_files import ModelTestFiles

    kind = {"int8": "fp32_w8", "int4": "fp32_w4"}.get(arguments.weights)  # activations and sums are in float32
    kind = kind or SHORT.get(arguments.weights or MODEL_TYPES.get(arguments.model_type, ""), "as_stored")
    hardware = "NPU" if arguments.device == "Ascend" else "CPU"
    return ModelTestFiles(arguments.output, hardware=hardware, kind=kind, model=name, batch=batch, ranks=arguments.world_size or 1)


def device_word(arguments: argparse.Namespace) -> str:
    """What the file name says of the device."""
    return str(arguments.device_id) if arguments.device == "Ascend" else "cpu"


def show(arguments: argparse.Namespace, sweep: Sweep, name: str) -> None:
    """Cases and files of a dry run."""
    from mindformers_codellama.pipelines.performance_files import SweepFile

    for case in sweep.cases:
        print(f"batch {case.batch}, {case.input_length} in, {case.output_length} out")
    batches = dict.fromkeys(case.batch for case in sweep.cases)
    if sweep.is_model_test:
        files = [path for batch in batches for path in vars(model_test_files(arguments, name, batch)).values() if isinstance(path, Path)]
    else:
        files = [SweepFile(arguments.output, name, device_word(arguments)).path]
    print(f"{len(sweep.cases)} cases, {len(sweep.cases) // len(batches)} for each of {len(batches)} batch sizes")
    print("\n".join(f"writes {path}" for path in files))


def line(timing: Timing) -> str:
    """One case for a person."""
    case = timing.case
    return (
        f"batch {case.batch}, {case.input_length} in, {case.output_length} out: {timing.total_seconds:.2f} s, "
        f"first token {1000 * timing.first_seconds:.1f} ms, then {1000 * timing.next_seconds:.2f} ms ({timing.next_rate:.1f} tokens/s)"
    )
