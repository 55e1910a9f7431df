"""`codellama doctor`: what on this machine would stop a job, and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from mindformers_codellama.cluster.diagnosis import Diagnosis, bad, good, look
from mindformers_codellama.cluster.doctor import Answer, examine
from mindformers_codellama.cluster.environment import DEFAULT_PORT
from mindformers_codellama.errors import CodeLlamaError, EnvironmentFault

EXAMPLES = """Run it on every machine of a job. Exit code 0 when nothing failed, 8 otherwise. It changes nothing.

examples:
  codellama doctor
  codellama doctor --rank-table hccl_2s_16p.json --output-dir /shared/output --port 8118
  codellama doctor --json
"""
COLOURS = {"ok": "32", "warning": "33", "failed": "31"}
WIDTH = 12
"""Of the column of names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the job will use."""
    parser.add_argument("--rank-table", type=Path, metavar="FILE", help="the job's rank table (default: one machine)")
    parser.add_argument("--output-dir", type=Path, default=Path("output"), metavar="DIR", help="output_dir of the job (default ./output)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, metavar="P", help=f"the scheduler's port (default {DEFAULT_PORT})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print each answer as it comes; 0 when nothing failed, 8 otherwise."""
    answers = []
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    checks = examine(rank_table=arguments.rank_table, output_dir=arguments.output_dir, port=arguments.port)
    for answer in chain(checks, _kernel_answer()):
        answers.append(answer)
        if not arguments.json:
            print(as_text(answer, coloured=coloured), flush=True)
    failed = [answer.name for answer in answers if answer.diagnosis.status == "failed"]
    if arguments.json:
        print(json.dumps(as_json(answers), indent=2, ensure_ascii=False))
    else:
        print(f"failed: {', '.join(failed)}" if failed else "nothing failed.")
    return EnvironmentFault.exit_code if failed else 0


def _kernel_answer() -> Iterator[Answer]:
    try:
        yield Answer("kernels", check_kernels())
    except Exception as error:  # a broken numpy for example: the doctor must reach its end
        yield Answer("kernels", bad(f"the check itself failed: {type(error).__name__}: {error}", "mend what failed above first."))


def check_kernels() -> Diagnosis:
    """The C++ kernels: found, right on this machine, their level, threads and compiler. Without them everything works, slower."""
    from mindformers_codellama.kernels import choose, library  # needs numpy, which may be what is broken

    try:
        named, word = choose.asked_for("auto")
        if word == "off":
            return look(f"switched off by {named}", f"unset {named}: plain MindSpore operators are slower and need more memory.")
        library.load_library()
        levels = library.usable_levels()
        level = levels[0] if word == "auto" else word
    except CodeLlamaError as error:
        return look(f"not used: {error.where}: {error.problem}", error.fix)
    if level not in levels:
        return look(f"{named} names {level}, which this machine or build does not have", f"one of {', '.join(levels)}, off.")
    found = f"level {level} (there are {', '.join(levels)}), {library.threads()} threads, built by {library.library_file().compiler}"
    return good(found)


def as_text(answer: Answer, *, coloured: bool) -> str:
    """One or two lines for a person."""
    status = answer.diagnosis.status
    word = f"\033[{COLOURS[status]}m{status:<8}\033[0m" if coloured else f"{status:<8}"
    text = f"{word} {answer.name:<{WIDTH}} {answer.diagnosis.found}"
    return f"{text}\n{'':<{WIDTH + 10}}fix: {answer.diagnosis.fix}" if answer.diagnosis.fix else text


def as_json(answers: list[Answer]) -> dict[str, object]:
    """For scripts: `ok`, and per check `name`, `status`, `found`, `fix`."""
    checks = [{"name": name, "status": found.status, "found": found.found, "fix": found.fix} for name, found in answers]
    return {"ok": all(check["status"] != "failed" for check in checks), "checks": checks}
