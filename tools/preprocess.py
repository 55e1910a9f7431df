#!/usr/bin/env python
"""HumanEval's prompts, task ids and entry points as three Python lists, as MindFormers' Code Llama page prints them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mindformers_codellama.cli.main import reported
from mindformers_codellama.evaluation.problems import read_problems


def run() -> int:
    """Print the three lists; the exit code."""
    parser = argparse.ArgumentParser("copy prompt", description=__doc__)
    parser.add_argument("--data_path", required=True, type=Path, help="HumanEval.jsonl.gz, or plain .jsonl")
    tasks = read_problems(parser.parse_args().data_path).tasks.values()
    print([task.prompt for task in tasks])
    print([task.task_id for task in tasks])
    print([task.entry_point for task in tasks])
    return 0


if __name__ == "__main__":
    sys.exit(reported(run))
