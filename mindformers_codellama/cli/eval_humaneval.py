"""`codellama eval humaneval`: samples of a model, run against the problems' tests in a sandbox, as pass@k."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.eval_programs import Questions, Suite, add_program_arguments, ending_as, run_programs
from mindformers_codellama.evaluation.problems import Problem, Problems, read_problems
from mindformers_codellama.evaluation.published import published
from mindformers_codellama.text.chat import CHAT_STYLES, style_stop_ids

if TYPE_CHECKING:
    from mindformers_codellama.config.generation import GenerationConfig
    from mindformers_codellama.pipelines.open_model import OpenedModel

EXAMPLES = """examples:
  codellama eval humaneval CodeLlama-7b-hf --data HumanEval.jsonl.gz --output humaneval_7b --batch-size 8
  codellama eval humaneval CodeLlama-7b-hf --data HumanEval.jsonl.gz --output out -n 10 --do-sample --temperature 0.8 --top-p 0.95 --top-k 0
  codellama eval humaneval CodeLlama-34b-Instruct-hf --prompt-style llama2 --data HumanEval.jsonl.gz --output humaneval_chat_34b
  codellama eval humaneval --samples samples.jsonl --data HumanEval.jsonl.gz --json
  codellama eval humaneval CodeLlama-7b-hf --data HumanEval.jsonl.gz --output samples_7b --generate-only --limit 20
"""


def add_arguments(suite: argparse.ArgumentParser) -> None:
    """What suites of programs share, and how the model is asked."""
    add_program_arguments(suite, data="HumanEval.jsonl.gz of github.com/openai/human-eval")
    group = suite.add_argument_group("asking")
    line = "ask a chat model for the function instead of giving the prompt to be continued (default: completion, as published)"
    group.add_argument("--prompt-style", choices=sorted(CHAT_STYLES), default="completion", help=line)


def run(arguments: argparse.Namespace) -> int:
    """Generate what is missing, run what was not run, report."""
    return run_programs(arguments, SUITE)


def read(arguments: argparse.Namespace) -> tuple[Problems[Problem], Problems[Problem]]:
    """All problems, twice: all are wanted."""
    every = read_problems(arguments.data)
    return every, every


def questions(arguments: argparse.Namespace, opened: OpenedModel, config: GenerationConfig, every: Problems[Problem]) -> Questions:
    """The problem's prompt to be continued, or a chat."""
    from mindformers_codellama.evaluation import ask_functions

    style = arguments.prompt_style
    if style == "completion":
        made = {"prompt": ask_functions.PROMPT, "stop_rule": ask_functions.STOP_RULE}
        return Questions(ask=ask_functions.ask_to_continue(opened.tokenizer), config=config, made=made)
    made = {"prompt": f"chat, style {style}: {ask_functions.REQUEST}", "stop_rule": ask_functions.CHAT_STOP_RULE}
    config = ending_as(config, style_stop_ids(opened.tokenizer, style))
    return Questions(ask=ask_functions.ask_in_chat(opened.tokenizer, style), config=config, made=made)


def figures(arguments: argparse.Namespace, name: str, every: Problems[Problem]) -> Mapping[str, Any]:
    """The paper's figures, for prompts that are continued."""
    return published("humaneval", name) if arguments.prompt_style == "completion" else {}


SUITE = Suite(name="humaneval", read=read, questions=questions, published=figures)
