"""`codellama eval mmlu`: 57 subjects, four answers each (Hendrycks et al. 2021)."""

from __future__ import annotations

import argparse

from mindformers_codellama.cli.eval_choices import add_choice_arguments, run_choices
from mindformers_codellama.evaluation.choices.suites import MMLU

EXAMPLES = """examples:
  codellama eval mmlu CodeLlama-7b-hf --data mmlu_test --output mmlu_7b --batch-size 8
  codellama eval mmlu CodeLlama-7b-hf --data mmlu_test --output written_7b --answer-by generation --limit 20
  codellama eval mmlu CodeLlama-7b-hf --data mmlu_test --output some --subjects college_physics,computer_security --json
  codellama eval mmlu CodeLlama-7b-hf --data mmlu_test --output mmlu_7b --dry-run
The data is https://people.eecs.berkeley.edu/~hendrycks/data.tar, unpacked. See docs/multiple_choice.md
"""


def add_arguments(suite: argparse.ArgumentParser) -> None:
    """As every multiple-choice suite."""
    add_choice_arguments(suite, MMLU)


def run(arguments: argparse.Namespace) -> int:
    """Ask, average, write."""
    return run_choices(arguments, MMLU)
