"""`codellama eval ceval`: 52 subjects in Chinese, four answers each (Huang et al. 2023)."""

from __future__ import annotations

import argparse

from mindformers_codellama.cli.eval_choices import add_choice_arguments, run_choices
from mindformers_codellama.evaluation.choices.suites import CEVAL

EXAMPLES = """examples:
  codellama eval ceval CodeLlama-7b-hf --data ceval-exam --output ceval_7b --batch-size 8
  codellama eval ceval CodeLlama-7b-hf --data ceval-exam --split test --output ceval_7b_test     # writes submission.json
  codellama eval ceval CodeLlama-7b-hf --data ceval-exam --output some --subjects law,logic --limit 5 --json
The data is ceval-exam.zip of huggingface.co/datasets/ceval/ceval-exam, unpacked. See docs/multiple_choice.md
"""


def add_arguments(suite: argparse.ArgumentParser) -> None:
    """As every multiple-choice suite."""
    add_choice_arguments(suite, CEVAL)


def run(arguments: argparse.Namespace) -> int:
    """Ask, average, write."""
    return run_choices(arguments, CEVAL)
