"""`codellama eval infilling-lines`: how many lines taken out of source files a model puts back as they were."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers_codellama.cli.eval_output import REPORT, SAMPLES, SETTINGS, bar, keep_settings, model_settings, write_json
from mindformers_codellama.cli.generation_options import (
    MODEL_HELP,
    add_generation_arguments,
    add_opening_arguments,
    generation_options,
    open_from,
)
from mindformers_codellama.cli.infill import ORDERS
from mindformers_codellama.cli.interrupts import stopping_on_interrupt
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.evaluation.exactness import nearness, nearness_report
from mindformers_codellama.evaluation.line_tasks import TAKEN, LineTask, line_tasks, read_source_files
from mindformers_codellama.evaluation.problems import Problems
from mindformers_codellama.evaluation.samples import Place, read_answers, read_samples, results_path

LONGEST_LINE = 64
"""Tokens of an answer when nothing is said."""
PREFIX = "prefix"
ORDER_HELP = "prefix or suffix first; auto: the model's own, or by the cursor; prefix: without the suffix, as a model that cannot infill"
EXAMPLES = """examples:
  codellama eval infilling-lines CodeLlama-7b-hf --files python-stdlib --output lines_7b --batch-size 8
  codellama eval infilling-lines CodeLlama-7b-hf --files src --lines 5 --order spm --until eot --output lines_src --json
  codellama eval infilling-lines CodeLlama-7b-hf --files "src/**/*.c" --lines 5 --dry-run --output lines_c
"""


def add_arguments(suite: argparse.ArgumentParser) -> None:
    """Files, which lines, how the model is asked, the model."""
    suite.add_argument("model", metavar="CONFIG|DIR", help=MODEL_HELP)
    suite.add_argument("--files", nargs="+", required=True, metavar="SOURCE", help="files, folders (.py), quoted globs, or python-stdlib")
    suite.add_argument("--split", choices=("held-out", "train"), default="held-out", help="which part of python-stdlib")
    suite.add_argument("--lines", type=int, default=10, metavar="N", help="lines of each file (default 10)")
    suite.add_argument(
        "--take", choices=TAKEN, default="line", help="the whole line (default), its rest behind a place in it, or a span inside it"
    )
    suite.add_argument("--pick-seed", type=int, default=0, metavar="N", help="another seed chooses other lines (default 0)")
    suite.add_argument("--limit", type=int, metavar="N", help="the first N lines alone, in the order of the files")
    suite.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON")
    suite.add_argument("--dry-run", action="store_true", help="say what would be done")
    group = suite.add_argument_group("samples")
    line = f"holds {SAMPLES} and {REPORT}; run again, it is gone on with"
    group.add_argument("--output", type=Path, required=True, metavar="DIR", help=line)
    group.add_argument("--batch-size", type=int, metavar="N", help="lines at once; default: the configuration's")
    add_opening_arguments(suite)
    group = suite.add_argument_group("infilling")
    group.add_argument("--order", choices=(*ORDERS, PREFIX), default="auto", help=ORDER_HELP)
    group.add_argument(
        "--until", choices=("line", "eot"), default="line", help="an answer ends with its line, or where the model says (default: line)"
    )
    add_generation_arguments(suite)


def run(arguments: argparse.Namespace) -> int:
    """Fill in what is missing, report."""
    every, tasks = read_tasks(arguments)
    path = arguments.output / SAMPLES
    there = read_samples(path, tasks, every=every, partial=True) if path.exists() else {}
    if arguments.dry_run:
        print(f"{len(tasks.tasks)} of {len(every.tasks)} lines; {len(there)} are filled in, the others would be in {path}")
        return 0
    made = make_middles(arguments, every, tasks, len(there))
    answers = read_answers(path, tasks, every=every)
    truths = {name: task.line for name, task in tasks.tasks.items()}
    middles = {place.task_id: record["completion"] for place, record in answers.items()}
    found = nearness_report(middles, truths, [str(record.get("finish_reason")) for record in answers.values()])
    write_results(results_path(path), answers, truths)
    found = {"suite": "infilling-lines"} | found | {"files": len({task.file.name for task in tasks.tasks.values()}), "made": made}
    write_json(arguments.output / REPORT, found)
    print(json.dumps(found) if arguments.as_json else told(found))
    return 0


def read_tasks(arguments: argparse.Namespace) -> tuple[Problems[LineTask], Problems[LineTask]]:
    """All lines chosen, and those wanted.

    Raises:
        ConfigError: a number below 1.
        DataError: the files.
    """
    for name in ("lines", "limit", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}", f"got {value}, must be at least 1.")
    files = read_source_files(arguments.files, split=arguments.split)
    every = line_tasks(files, per_file=arguments.lines, seed=arguments.pick_seed, taken=arguments.take)
    return every, every.first(arguments.limit)


def make_middles(arguments: argparse.Namespace, every: Problems[LineTask], tasks: Problems[LineTask], begun: int) -> dict[str, Any]:
    """Fill in the lines that are missing; how it is done."""
    from mindformers_codellama.evaluation.ask_middles import ask_for_middle, ask_to_continue
    from mindformers_codellama.evaluation.generate_samples import generate_samples, missing_places
    from mindformers_codellama.pipelines.infilling import InfillingPipeline, InfillOptions

    opened = open_from(arguments, alone="eval", infills=arguments.order != PREFIX)
    given = {"do_sample": False, "max_new_tokens": LONGEST_LINE, "use_past": True} | generation_options(arguments, sampling=False)
    pipe = InfillingPipeline(opened.model, opened.tokenizer, name=opened.name, **given)
    config = pipe.completed(pipe.generation.updated(seed=pipe.generation.seed or 0))
    if arguments.order == PREFIX:
        ask = ask_to_continue(pipe, arguments.until, config)
    else:
        ask = ask_for_middle(pipe, InfillOptions(suffix_first=ORDERS[arguments.order], until=arguments.until), config)
    made = model_settings(arguments, opened, config) | {
        "files": arguments.files,
        "split": arguments.split,
        "lines_per_file": arguments.lines,
        "pick_seed": arguments.pick_seed,
        "taken": arguments.take,
        "data_sha256": every.sha256,
        "order": arguments.order,
        "stop_rule": arguments.until,
        "positions": opened.model.decoder(use_past=config.use_past).max_length,
    }
    made = dict(json.loads(json.dumps(made)))
    keep_settings(arguments.output / SETTINGS, made, begun=bool(begun))
    path = arguments.output / SAMPLES
    there = read_samples(path, every, partial=True) if path.exists() else {}
    places = missing_places(tasks, every, 1, there)
    with bar("line", arguments) as show, stopping_on_interrupt() as should_stop:
        count = [len(tasks.tasks) - len(places)]

        def on_samples(new: int) -> None:
            count[0] += new
            show(count[0], len(tasks.tasks))

        generate_samples(
            opened.model,
            opened.tokenizer,
            config,
            tasks.tasks,
            ask,
            places,
            path,
            batch_size=arguments.batch_size or opened.batch_size,
            on_samples=on_samples,
            should_stop=should_stop,
        )
    return made


def write_results(path: Path, answers: Mapping[Place, Mapping[str, Any]], truths: Mapping[str, str]) -> None:
    """Every answer with the line that stood there and how near it is."""
    from mindformers_codellama.checkpoint.files import atomic_file

    with atomic_file(path, force=True) as file:
        for place, record in answers.items():
            near = nearness(record["completion"], truths[place.task_id])
            verdict = {"line": truths[place.task_id], "passed": near.exact, "similarity": round(near.similarity, 6)}
            file.write((json.dumps({**record, **verdict}) + "\n").encode())


def told(found: dict[str, Any]) -> str:
    """The report in lines for a person."""
    low, high = found["confidence_95"]["exact_match"]
    return (
        f"exact match {found['exact_match']:.4f} of {found['tasks']} lines in {found['files']} files (95 %: {low:.3f} to {high:.3f})\n"
        f"without white space around {found['exact_match_stripped']:.4f}, edit similarity {found['edit_similarity']:.4f}\n"
        f"ended by the model itself {found['ended_by_model']:.4f}"
    )
