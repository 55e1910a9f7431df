"""`codellama predict`: answers to prompts, streamed to the terminal."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.answers import Printer, Request
from mindformers_codellama.cli.engine import is_elsewhere, predict_elsewhere, run_elsewhere
from mindformers_codellama.cli.generation_options import (
    add_generation_arguments,
    add_model_arguments,
    generation_options,
    open_from,
    unescape,
)
from mindformers_codellama.errors import ConfigError

if TYPE_CHECKING:
    from mindformers_codellama.config.sections import RunConfig
    from mindformers_codellama.pipelines.open_model import OpenedModel

logger = logging.getLogger(__name__)

RESULT_FILE = "text_generation_result.txt"
EXAMPLES = r"""examples:
  codellama predict configs/codellama/predict_codellama_tiny.yaml "def add(a, b):\n" --load-checkpoint CKPT
  codellama predict CodeLlama-7b-hf "def quick_sort(arr):\n" --max-new-tokens 200 --stop "\ndef "
  codellama predict CONFIG --load-checkpoint CKPT --prompt-style alpaca "Write a function that adds two numbers."
  codellama predict CONFIG --predict-data prompts.txt --batch-size 8 --json > answers.jsonl
  cat half_written.py | codellama predict CONFIG -
prompt styles (how the model was trained to be asked):
  completion  the text is continued      llama2, codellama-70b  Meta's Instruct models
  alpaca      finetuned on an Alpaca file by codellama data (or alpaca-llama2 with its llama2 template)
  vicuna      finetuned on conversations by codellama data     alpaca-plain  Stanford's Alpaca text alone
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, prompts, generation, output."""
    add_model_arguments(parser)
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help=r"texts (\n in a single text is a new line; one that begins with - goes into a file); - is standard input",
    )
    parser.add_argument(
        "--predict-data",
        "--predict_data",
        nargs="+",
        default=[],
        metavar="FILE|TEXT",
        help="files with a prompt per line, .jsonl files, folders, or texts",
    )
    parser.add_argument("--input", default="", metavar="TEXT", help="the input that belongs to an Alpaca instruction")
    parser.add_argument("--keep-backslashes", action="store_true", help=r"leave \n and \t in a single text as they are")
    add_generation_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--batch-size", type=int, metavar="N", help="prompts at once; default: the configuration's")
    group.add_argument("--no-stream", dest="stream", action="store_false", help="print each answer when it is complete")
    group.add_argument("--json", dest="as_json", action="store_true", help="one JSON object per prompt and line")
    group.add_argument(
        "--output", nargs="?", const=RESULT_FILE, metavar="FILE", help=f"also write MindFormers' result file ({RESULT_FILE})"
    )
    group.add_argument("--force", action="store_true", help="replace an existing result file")
    parser.set_defaults(others=[])  # prompts behind an option, collected by main


def run(arguments: argparse.Namespace) -> int:
    """Read prompts, open the model, answer. Every rank generates; rank 0 shows and writes."""
    prompts = prompts_from(arguments)
    elsewhere = predict_elsewhere(arguments, prompts)
    if elsewhere is not None:
        return elsewhere
    output = None if arguments.output is None else Path(arguments.output)
    check_output(output, force=arguments.force)
    reads_stdin = "-" in (*arguments.prompts, *arguments.others)
    opened = open_from(arguments, alone="a prompt from standard input" if reads_stdin else "")
    options = generation_options(arguments, sampling=opened.generation.do_sample)
    request = Request(
        prompts=prompts,
        style=arguments.prompt_style or opened.prompt_style,
        input_text=arguments.input,
        system=arguments.system,
        batch_size=opened.batch_size if arguments.batch_size is None else arguments.batch_size,
        stream=arguments.stream,
        as_json=arguments.as_json,
        output=output,
        force=arguments.force,
    )
    return answer(opened, request, options)


def run_config(run_section: RunConfig) -> int:
    """`run_mode: predict` of a configuration; an older result file is moved aside, as MindFormers would overwrite it."""
    from mindformers_codellama.pipelines.open_model import open_run
    from mindformers_codellama.pipelines.prompt_files import read_prompts

    if is_elsewhere(run_section):
        return run_elsewhere(run_section)
    if not run_section.input_data:
        raise ConfigError(
            "predict_data", "there is nothing to predict.", fix='give --predict_data "TEXT" or a file with a prompt per line.'
        )
    prompts = read_prompts(run_section.input_data)
    opened = open_run(run_section)
    request = Request(prompts=prompts, style="completion", batch_size=opened.batch_size, output=Path(RESULT_FILE), keep_older=True)
    return answer(opened, request, {})


def prompts_from(arguments: argparse.Namespace) -> list[str]:
    """Prompts of all arguments, in order.

    Raises:
        ConfigError: there are none.
    """
    from mindformers_codellama.pipelines.prompt_files import decode_newlines, read_prompts, read_stdin

    words = [*arguments.prompts, *arguments.others]
    data = list(arguments.predict_data)
    if len(words) + len(data) == 1 and not arguments.keep_backslashes:
        words, data = [unescape(word) for word in words], decode_newlines(data)
    prompts = [read_stdin() if word == "-" else word for word in words] + read_prompts(data)
    if not prompts:
        raise ConfigError("prompts", "there is nothing to predict.", fix='give a prompt: codellama predict CONFIG "def add(a, b):"')
    return prompts


def answer(opened: OpenedModel, request: Request, options: dict[str, Any]) -> int:
    """Generate and show; of several ranks only rank 0 shows anything."""
    if opened.comm.is_alone:
        return _answer(opened, request, options)
    from mindformers_codellama.parallel.agreement import gather

    # a file or standard input may be another one on another machine: ranks that read different prompts would hang
    prompts = gather(opened.comm, request.prompts, doing="agreeing on the prompts")[0]
    request = dataclasses.replace(request, prompts=prompts, stream=request.stream and opened.comm.data.size == 1)
    if opened.comm.rank == 0:
        return _answer(opened, request, options)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        return _answer(opened, dataclasses.replace(request, output=None), options)


def _answer(opened: OpenedModel, request: Request, options: dict[str, Any]) -> int:
    """Generate and show."""
    from mindformers_codellama.pipelines.text_generation import OUTPUT_KEY, TextGenerationPipeline
    from mindformers_codellama.text.chat import Message, chat_ids, chat_style, style_stop_ids

    system = [Message("system", request.system)] if request.system else []
    prompts = [
        chat_ids(opened.tokenizer, [*system, Message("user", text)], request.style, input_text=request.input_text)
        for text in request.prompts
    ]
    config = opened.generation.updated(**options)
    if "eos_token_id" not in options and chat_style(request.style).name != "completion":
        ends = (*config.eos_token_ids, *style_stop_ids(opened.tokenizer, request.style))
        config = config.updated(eos_token_ids=tuple(dict.fromkeys(ends)))
    pipe = TextGenerationPipeline(opened.model, opened.tokenizer, batch_size=request.batch_size)
    printer = Printer(request)
    result = printer.generate(pipe, prompts, config)
    print(f"{result.stats}", file=sys.stderr)
    if request.output is not None:
        if request.keep_older:
            move_aside(request.output)
        results = [{OUTPUT_KEY: [pipe.whole_text(result, row)]} for row in range(len(result.ids))]
        write_results(request.output, results, force=request.force)
    return 0


def check_output(path: Path | None, *, force: bool) -> None:
    """Refuse an existing result file before anything is computed.

    Raises:
        CheckpointError: it exists, or is a directory.
    """
    if path is not None:
        from mindformers_codellama.checkpoint.files import refuse_existing

        refuse_existing(path, force=force)


def move_aside(path: Path) -> None:
    """Keep an older result file as `NAME.1`, `NAME.2`, ..."""
    if path.exists():
        number = 1
        while path.with_name(f"{path.name}.{number}").exists():
            number += 1
        os.replace(path, path.with_name(f"{path.name}.{number}"))
        logger.info("the older %s is now %s.%d", path, path.name, number)


def write_results(path: Path, results: list[dict[str, list[str]]], *, force: bool) -> None:
    """Write the list as MindFormers' trainer does: its Python text, in one line."""
    from mindformers_codellama.checkpoint.files import atomic_file

    with atomic_file(path, force=force) as file:
        file.write(str(results).encode())
    logger.info("results written to %s", path)
