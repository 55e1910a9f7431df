"""`codellama eval mbpp`: programs written to a sentence and three tests, run against those tests in a sandbox, as pass@k."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.eval_programs import Questions, Suite, add_program_arguments, ending_as, run_programs
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.evaluation import mbpp
from mindformers_codellama.evaluation.mbpp import MbppProblem
from mindformers_codellama.evaluation.problems import Problems
from mindformers_codellama.evaluation.published import published
from mindformers_codellama.text.chat import CHAT_STYLES, style_stop_ids

if TYPE_CHECKING:
    from mindformers_codellama.config.generation import GenerationConfig
    from mindformers_codellama.pipelines.open_model import OpenedModel

EXAMPLES = """examples:
  codellama eval mbpp CodeLlama-7b-hf --data mbpp.jsonl --output mbpp_7b --batch-size 8
  codellama eval mbpp CodeLlama-7b-Instruct-hf --data mbpp.jsonl --shots 0 --prompt-style llama2 --output mbpp_7b_instruct
  codellama eval mbpp CodeLlama-7b-hf --data mbpp.jsonl --output out -n 10 --do-sample --temperature 0.8 --top-p 0.95 --top-k 0
  codellama eval mbpp --samples samples.jsonl --data mbpp.jsonl --json
"""


def add_arguments(suite: argparse.ArgumentParser) -> None:
    """What suites of programs share, the split, how the model is asked."""
    add_program_arguments(suite, data="mbpp.jsonl or sanitized-mbpp.json of github.com/google-research/google-research")
    group = suite.add_argument_group("tasks")
    group.add_argument("--split", choices=tuple(mbpp.SPLITS), default="test", help="test: tasks 11 to 510 (default)")
    group.add_argument("--challenge", action="store_true", help="run challenge_test_list too")
    group = suite.add_argument_group("asking")
    group.add_argument("--shots", type=int, default=3, metavar="N", help="solved tasks in the prompt, 0 to 3 (default 3: tasks 2, 3, 4)")
    line = "with --shots 0: how the model was trained to be asked; default: by its registry name"
    group.add_argument("--prompt-style", choices=sorted(CHAT_STYLES), help=line)


def run(arguments: argparse.Namespace) -> int:
    """Generate what is missing, run what was not run, report."""
    if not 0 <= arguments.shots <= len(mbpp.EXAMPLES):
        raise ConfigError("--shots", f"got {arguments.shots}, must be from 0 to {len(mbpp.EXAMPLES)}.")
    if arguments.shots and arguments.prompt_style:
        raise ConfigError("--prompt-style", "goes with --shots 0; solved tasks are a text to be continued.", fix="leave one of them out.")
    return run_programs(arguments, SUITE)


def read(arguments: argparse.Namespace) -> tuple[Problems[MbppProblem], Problems[MbppProblem]]:
    """All tasks of the file, and those of the split."""
    every = mbpp.read_mbpp(arguments.data, challenge=arguments.challenge)
    mbpp.examples(every, arguments.shots if arguments.samples is None else 0)  # told before a model is read
    return every, mbpp.split_of(every, arguments.split)


def questions(arguments: argparse.Namespace, opened: OpenedModel, config: GenerationConfig, every: Problems[MbppProblem]) -> Questions:
    """Solved tasks and the question, or the question alone."""
    from mindformers_codellama.evaluation.ask_mbpp import DONE, ask_in_chat, ask_with_examples

    if arguments.shots:
        made = {"prompt": f"MBPP paper, {arguments.shots} solved tasks", "stop_rule": DONE, "shots": arguments.shots}
        return Questions(ask=ask_with_examples(opened.tokenizer, mbpp.examples(every, arguments.shots)), config=config, made=made)
    style = arguments.prompt_style or opened.prompt_style
    config = ending_as(config, style_stop_ids(opened.tokenizer, style))
    made = {"prompt": f"Code Llama paper, zero-shot, style {style}", "stop_rule": "[/PYTHON]", "shots": 0}
    return Questions(ask=ask_in_chat(opened.tokenizer, style), config=config, made=made)


def figures(arguments: argparse.Namespace, name: str, every: Problems[MbppProblem]) -> Mapping[str, Any]:
    """The paper's figure, for its own prompt and split."""
    return published("mbpp", name) if (arguments.shots, arguments.split, arguments.challenge) == (3, "test", False) else {}


SUITE = Suite(name="mbpp", read=read, questions=questions, published=figures)
