"""`codellama eval compare`: results of two devices, checkpoints or settings side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mindformers_codellama.errors import ConfigError
from mindformers_codellama.evaluation.comparison import compare
from mindformers_codellama.evaluation.comparison_text import markdown, picture
from mindformers_codellama.evaluation.results import read_result

NAME = "comparison"
EXAMPLES = """examples:
  codellama eval compare humaneval_ascend humaneval_cpu --names 910B CPU
  codellama eval compare humaneval_7b humaneval_7b_w8 humaneval_7b_w4 --output compared
  codellama eval compare one_report.json other_report.json --json
a RESULT is the --output folder of humaneval, mbpp, humaneval-infilling, infilling-lines, perplexity, mmlu or ceval
"""


def add_arguments(suite: argparse.ArgumentParser) -> None:
    """The results and what to make of them."""
    suite.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT", help="folder of an evaluation, or the report beside scored samples"
    )
    suite.add_argument("--names", nargs="+", default=[], metavar="NAME", help="heads of the columns; default: names of the folders")
    suite.add_argument("--output", type=Path, metavar="DIR", help=f"write {NAME}.md, {NAME}.json and {NAME}.png")
    suite.add_argument("--force", action="store_true", help="replace them")
    suite.add_argument("--json", dest="as_json", action="store_true", help="print JSON instead of Markdown")


def run(arguments: argparse.Namespace) -> int:
    """Read, compare, print, write.

    Raises:
        ConfigError: one result alone, or not a name for each.
        DataError: results that cannot be read or compared.
    """
    if len(arguments.results) < 2:
        raise ConfigError("RESULT", "there is nothing to compare with.", fix="give two results or more.")
    names = arguments.names or [""] * len(arguments.results)
    if len(names) != len(arguments.results):
        raise ConfigError("--names", f"got {len(names)} names for {len(arguments.results)} results.", fix="give one for each.")
    found = compare([read_result(path, name) for path, name in zip(arguments.results, names, strict=True)])
    text = markdown(found)
    if arguments.output is not None:
        write(arguments.output, found, text, force=arguments.force)
    print(json.dumps(found) if arguments.as_json else text, end="\n" if arguments.as_json else "")
    return 0


def write(folder: Path, found: dict[str, object], text: str, *, force: bool) -> None:
    """The three files.

    Raises:
        CheckpointError: one exists and not `force`, or the disk refuses.
    """
    from mindformers_codellama.checkpoint.files import atomic_file, refuse_existing

    files = {".md": text.encode(), ".json": (json.dumps(found, indent=2) + "\n").encode(), ".png": picture(found)}
    for ending in files:
        refuse_existing(folder / f"{NAME}{ending}", force=force)
    folder.mkdir(parents=True, exist_ok=True)
    for ending, data in files.items():
        with atomic_file(folder / f"{NAME}{ending}", force=force) as file:
            file.write(data)
