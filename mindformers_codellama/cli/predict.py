"""`codellama predict`: answers to prompts, streamed to the terminal."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from mindformers_codellama.generation.result import GenerationResult
    from mindformers_codellama.pipelines.open_model import OpenedModel

logger = logging.getLogger(__name__)

RESULT_FILE = "text_generation_result.txt"
TITLE_WIDTH = 100
"""Characters of a question shown above its answer."""

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


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to answer and how to show it."""

    prompts: list[str]
    style: str
    input_text: str = ""
    system: str = ""
    batch_size: int = 1
    stream: bool = True
    as_json: bool = False
    output: Path | None = None
    force: bool = False
    keep_older: bool = False
    """Move an older result file aside instead of refusing it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, prompts, generation, output."""
    add_model_arguments(parser)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help=r"texts (\n in a single text is a new line); - is standard input")
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
    """Read prompts, open the model, answer."""
    prompts = prompts_from(arguments)
    elsewhere = predict_elsewhere(arguments, prompts)
    if elsewhere is not None:
        return elsewhere
    output = None if arguments.output is None else Path(arguments.output)
    check_output(output, force=arguments.force)
    opened = open_from(arguments)
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
        ConfigError: none, or an unknown option among them.
    """
    from mindformers_codellama.pipelines.prompt_files import decode_newlines, read_prompts, read_stdin

    for word in arguments.others:
        if word.startswith("-") and word != "-":
            raise ConfigError(
                word, "is not an option of predict.", fix="see codellama predict --help; write a prompt that begins with - to a file."
            )
    words = [*arguments.prompts, *arguments.others]
    data = list(arguments.predict_data)
    if len(words) + len(data) == 1 and not arguments.keep_backslashes:
        words, data = [unescape(word) for word in words], decode_newlines(data)
    prompts = [read_stdin() if word == "-" else word for word in words] + read_prompts(data)
    if not prompts:
        raise ConfigError("prompts", "there is nothing to predict.", fix='give a prompt: codellama predict CONFIG "def add(a, b):"')
    return prompts


def answer(opened: OpenedModel, request: Request, options: dict[str, Any]) -> int:
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


class Printer:
    """Shows answers: as they come, whole, or as JSON; each batch when it is done, so that nothing is lost when a later one fails."""

    def __init__(self, request: Request) -> None:
        self.request = request
        one_at_a_time = request.batch_size == 1 or len(request.prompts) == 1
        self.streams = request.stream and not request.as_json and one_at_a_time
        self.current = -1

    def generate(self, pipe: Any, prompts: Sequence[Sequence[int]], config: Any) -> GenerationResult:
        """Run the pipeline with a stream or with a bar."""
        from mindformers_codellama.generation.loop import Listeners

        if config.num_beams > 1:
            self.streams = False
        if self.streams:
            listeners = Listeners(on_text=self.on_text)
            result: GenerationResult = pipe.run(prompts, config, batch_size=1, listeners=listeners, after_batch=self.end_stream)
            return result
        from tqdm import tqdm

        with tqdm(total=len(prompts), unit="prompt", disable=len(prompts) == 1 or not sys.stderr.isatty()) as bar:

            def show(batch: GenerationResult, first: int) -> None:
                for row in range(len(batch.ids)):
                    tqdm.write(self.whole(pipe, batch, row, first + row))
                sys.stdout.flush()
                bar.update(len(batch.ids))

            result = pipe.run(prompts, config, after_batch=show)
        return result

    def head(self, row: int) -> str:
        """What stands before an answer: its number, and the prompt where the answer continues it."""
        count, prompt = len(self.request.prompts), self.request.prompts[row]
        number = f"== prompt {row + 1} of {count}" if count > 1 else ""
        if self.request.style == "completion":
            return (f"{number}\n" if number else "") + prompt
        first_line = textwrap.shorten(prompt, TITLE_WIDTH, placeholder=" ...")
        return f"{number}: {first_line}\n" if number else ""

    def on_text(self, row: int, piece: str) -> None:
        """Write a piece at once."""
        if row != self.current:
            self.current = row
            sys.stdout.write(self.head(row))
            if self.request.style != "completion":
                piece = piece.lstrip(" ")
        sys.stdout.write(piece)
        sys.stdout.flush()

    def end_stream(self, batch: GenerationResult, row: int) -> None:
        """End an answer; one that was empty still has its head."""
        if self.current != row:
            self.on_text(row, "")
        sys.stdout.write("\n")
        sys.stdout.flush()

    def whole(self, pipe: Any, batch: GenerationResult, row: int, number: int) -> str:
        """A complete answer: row `row` of its batch, prompt `number` of the request."""
        assert batch.texts is not None
        text = batch.texts[row]
        if not self.request.as_json:
            return self.head(number) + (text if self.request.style == "completion" else text.lstrip(" "))
        record = {
            "index": number,
            "prompt": self.request.prompts[number],
            "answer": text,
            "text_generation_text": [pipe.whole_text(batch, row)],
            "finish_reason": batch.finish_reasons[row],
            "prompt_tokens": batch.prompt_lengths[row],
            "new_tokens": len(batch.new_ids(row)),
        }
        return json.dumps(record, ensure_ascii=False)


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
