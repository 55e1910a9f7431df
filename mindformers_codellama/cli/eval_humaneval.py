"""`codellama eval humaneval`: samples of a model, run against the problems' tests in a sandbox, as pass@k."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mindformers_codellama.cli.eval_programs import Questions, Suite, add_program_arguments, run_programs
from mindformers_codellama.evaluation.problems import Problem, Problems, read_problems
from mindformers_codellama.evaluation.published import published

if TYPE_CHECKING:
    from mindformers_codellama.config.generation import GenerationConfig
    from mindformers_codellama.pipelines.open_model import OpenedModel

EXAMPLES = """examples:
  codellama eval humaneval CodeLlama-7b-hf --data HumanEval.jsonl.gz --output humaneval_7b --batch-size 8
  codellama eval humaneval CodeLlama-7b-hf --data HumanEval.jsonl.gz --output out -n 10 --do-sample --temperature 0.8 --top-p 0.95 --top-k 0
  codellama eval humaneval --samples samples.jsonl --data HumanEval.jsonl.gz --json
  codellama eval humaneval CodeLlama-7b-hf --data HumanEval.jsonl.gz --output samples_7b --generate-only --limit 20
"""


def add_arguments(suite: argparse.ArgumentParser) -> None:
    """What suites of programs share."""
    add_program_arguments(suite, data="HumanEval.jsonl.gz of github.com/openai/human-eval")


def run(arguments: argparse.Namespace) -> int:
    """Generate what is missing, run what was not run, report."""
    return run_programs(arguments, SUITE)


def read(arguments: argparse.Namespace) -> tuple[Problems[Problem], Problems[Problem]]:
    """All problems, twice: all are wanted."""
    every = read_problems(arguments.data)
    return every, every


def questions(arguments: argparse.Namespace, opened: OpenedModel, config: GenerationConfig, every: Problems[Problem]) -> Questions:
    """The problem's prompt, to be continued."""
    from mindformers_codellama.evaluation.ask_functions import PROMPT, STOP_RULE, ask_to_continue

    return Questions(ask=ask_to_continue(opened.tokenizer), config=config, made={"prompt": PROMPT, "stop_rule": STOP_RULE})


SUITE = Suite(name="humaneval", read=read, questions=questions, published=lambda arguments, name, every: published("humaneval", name))
