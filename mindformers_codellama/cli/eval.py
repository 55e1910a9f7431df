"""`codellama eval SUITE`: one table of suites, each in a module of its own.

A suite's module has `add_arguments(parser) -> None` and `run(arguments) -> int`, and may have
`EXAMPLES`, a text shown below its help. To add one, add a line to `SUITES`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module

SUITES: Mapping[str, tuple[str, str]] = {
    "humaneval": ("mindformers_codellama.cli.eval_humaneval", "164 Python functions to write from head and docstring (Chen et al. 2021)"),
    "mbpp": ("mindformers_codellama.cli.eval_mbpp", "short Python tasks told in a sentence and by tests (Austin et al. 2021)"),
    "humaneval-infilling": ("mindformers_codellama.cli.eval_humaneval_infilling", "parts of HumanEval's solutions to be filled in"),
    "infilling-lines": ("mindformers_codellama.cli.eval_infilling_lines", "lines taken out of source files, to be put back as they were"),
    "perplexity": ("mindformers_codellama.cli.eval_perplexity", "loss per token, word perplexity and bits per byte of texts"),
    "mmlu": ("mindformers_codellama.cli.eval_mmlu", "57 subjects, questions with four answers (Hendrycks et al. 2021)"),
    "ceval": ("mindformers_codellama.cli.eval_ceval", "52 subjects, questions with four answers in Chinese (Huang et al. 2023)"),
    "compare": ("mindformers_codellama.cli.eval_compare", "results of several runs side by side: rates, intervals, paired tests"),
}
"""Suite to its module and the one line `codellama eval --help` shows."""

EXAMPLES = """examples:
  codellama eval humaneval CodeLlama-7b-hf --data HumanEval.jsonl.gz --output humaneval_7b --batch-size 8
  codellama eval perplexity CodeLlama-7b-hf --data python-stdlib --window 2048 --stride 1024 --output ppl_7b
  codellama eval compare humaneval_ascend humaneval_cpu --names 910B CPU
more of each suite: codellama eval SUITE --help
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The suites."""
    suites = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    for name, (module_name, line) in SUITES.items():
        module = import_module(module_name)
        suite = suites.add_parser(
            name,
            help=line,
            description=f"{line[0].upper()}{line[1:]}.",
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(suite)
        suite.set_defaults(run_suite=module.run)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen suite."""
    return int(arguments.run_suite(arguments))
