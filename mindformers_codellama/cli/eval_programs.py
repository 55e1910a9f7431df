"""What suites of programs share: samples of a model, run against tests in a sandbox, as pass@k."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.eval_output import REPORT, SAMPLES, SETTINGS, bar, keep_settings, model_settings, write_json
from mindformers_codellama.cli.generation_options import (
    MODEL_HELP,
    add_generation_arguments,
    add_opening_arguments,
    generation_options,
    open_from,
)
from mindformers_codellama.cli.interrupts import stopping_on_interrupt
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.evaluation.problems import Problems
from mindformers_codellama.evaluation.report import report, require_k, told
from mindformers_codellama.evaluation.samples import Place, read_samples, results_path
from mindformers_codellama.evaluation.sandbox import UNSAFE_WARNING, Limits, Sandbox, open_sandbox
from mindformers_codellama.evaluation.score import conditions_of, score

if TYPE_CHECKING:
    from mindformers_codellama.config.generation import GenerationConfig
    from mindformers_codellama.evaluation.generate_samples import Ask
    from mindformers_codellama.pipelines.open_model import OpenedModel

logger = logging.getLogger(__name__)

LONGEST_ANSWER = 512
"""Tokens of a completion when nothing is said; the longest canonical solution of HumanEval has fewer than 400."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """How a model is asked for samples."""

    ask: Ask
    config: GenerationConfig
    made: Mapping[str, Any]
    """What to say of it: `prompt`, `stop_rule` and more."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What sets a suite of programs apart."""

    name: str
    read: Callable[[argparse.Namespace], tuple[Problems[Any], Problems[Any]]]
    """All problems of the file, and those wanted."""
    questions: Callable[[argparse.Namespace, OpenedModel, GenerationConfig, Problems[Any]], Questions]
    """Of a model, its options, and all problems."""
    published: Callable[[argparse.Namespace, str, Problems[Any]], Mapping[str, Any]]
    """Figures for a registry name."""
    infills: bool = False
    """The model must be one that fills in the middle."""
    more: Callable[[Problems[Any], Mapping[Place, str]], Mapping[str, Any]] = lambda problems, completions: {}
    """Further findings of completions."""


def add_program_arguments(suite: argparse.ArgumentParser, *, data: str, required: bool = True) -> None:
    """Problems, samples, how programs are run, the model.

    Args:
        suite: the parser.
        data: which file is meant.
        required: `--data` must be given.
    """
    suite.add_argument("model", metavar="CONFIG|DIR", nargs="?", default="", help=f"{MODEL_HELP}; none with --samples")
    suite.add_argument("--data", type=Path, required=required, metavar="FILE", help=data)
    suite.add_argument("--samples", type=Path, metavar="FILE", help="score these {task_id, completion} lines; no model is used")
    suite.add_argument("--limit", type=int, metavar="N", help="the first N tasks alone")
    suite.add_argument(
        "--k", type=int, nargs="+", default=[], metavar="K", help="pass@K to give; default: those of 1, 10, 100 that n allows"
    )
    suite.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON")
    suite.add_argument("--dry-run", action="store_true", help="say what would be done, and try the sandbox; generate and run nothing")
    group = suite.add_argument_group("samples")
    group.add_argument(
        "--output", type=Path, metavar="DIR", help=f"holds {SAMPLES}, its results and {REPORT}; run again, it is gone on with"
    )
    group.add_argument("-n", "--num-samples", type=int, default=1, metavar="N", help="samples of each task (default 1)")
    group.add_argument("--batch-size", type=int, metavar="N", help="samples at once; default: the configuration's")
    group.add_argument("--generate-only", action="store_true", help="write the samples and run nothing")
    _add_running(suite.add_argument_group("running programs"))
    add_opening_arguments(suite)
    add_generation_arguments(suite)


def _add_running(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--workers", type=int, default=0, metavar="N", help="programs at once; default: all cores")
    group.add_argument("--unsafe", action="store_true", help="run without bubblewrap: no protection of files, network and other processes")
    defaults = Limits()
    for name, kind, line in (
        ("cpu_seconds", int, "CPU time of a program, whole seconds"),
        ("wall_seconds", float, "time of a program by the clock"),
        ("memory_mib", int, "memory of a process, MiB"),
    ):
        default = getattr(defaults, name)
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, metavar="N", help=f"{line} (default {default:g})")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be done, read and checked."""

    every: Problems[Any]
    problems: Problems[Any]
    limits: Limits
    sandbox: Sandbox | None
    """None when nothing is run."""
    samples: Path


def run_programs(arguments: argparse.Namespace, suite: Suite) -> int:
    """Generate what is missing, run what was not run, report."""
    task = read_task(arguments, suite)
    if arguments.samples is None:
        made, name = make_samples(arguments, task, suite)
    else:
        made, name = {"samples": str(arguments.samples)}, ""
    if arguments.dry_run or task.sandbox is None:
        return 0
    completions = read_samples(task.samples, task.problems, every=task.every)
    every = read_samples(task.samples, task.every, partial=True) | completions
    with bar("sample", arguments) as show:
        results = score(
            completions,
            task.problems,
            task.sandbox,
            task.limits,
            results_path(task.samples),
            every=every,
            workers=arguments.workers,
            on_verdict=show,
        )
    made |= conditions_of(task.every, task.sandbox, task.limits)
    figures = suite.published(arguments, name, task.every)
    found = (
        {"suite": suite.name} | report(results, made, chosen=arguments.k, figures=figures) | dict(suite.more(task.problems, completions))
    )
    write_json(task.samples.with_name(f"{task.samples.stem}_{REPORT}" if arguments.samples else REPORT), found)
    print(json.dumps(found) if arguments.as_json else told(found))
    return 0


def read_task(arguments: argparse.Namespace, suite: Suite) -> Task:
    """Read and check everything that costs little, the sandbox too.

    Raises:
        ConfigError: options that exclude each other or are out of range.
        DataError: the data or the samples.
        EnvironmentFault: no sandbox.
    """
    if (arguments.samples is None) == (not arguments.model):
        raise ConfigError(f"eval {suite.name}", "needs a model or --samples, and not both.", fix=f"see codellama eval {suite.name} --help.")
    if arguments.samples is None and arguments.output is None:
        raise ConfigError("--output", "is missing: samples and results are kept.", fix="--output DIR.")
    if arguments.samples is not None and (arguments.generate_only or arguments.output is not None):
        raise ConfigError("--samples", "takes no --generate-only and no --output: results are written beside the samples.")
    for name in ("limit", "num_samples", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}", f"got {value}, must be at least 1.")
    if arguments.workers < 0:
        raise ConfigError("--workers", f"got {arguments.workers}, must be at least 1.")
    every, wanted = suite.read(arguments)
    problems = wanted.first(arguments.limit)
    limits = Limits(**{name: getattr(arguments, name) for name in ("cpu_seconds", "wall_seconds", "memory_mib")})
    samples = arguments.samples or arguments.output / SAMPLES
    if arguments.samples is not None:
        read_samples(samples, problems, every=every)
    else:
        require_k(arguments.k, arguments.num_samples)
    if arguments.unsafe:
        logger.warning("%s", UNSAFE_WARNING)
    sandbox = None if arguments.generate_only else open_sandbox(unsafe=arguments.unsafe)
    if arguments.dry_run:
        where = "nothing is run" if sandbox is None else f"programs run in: {sandbox.name}"
        print(f"{len(problems.tasks)} of {len(every.tasks)} tasks; {where}")
    return Task(every=every, problems=problems, limits=limits, sandbox=sandbox, samples=samples)


def make_samples(arguments: argparse.Namespace, task: Task, suite: Suite) -> tuple[dict[str, Any], str]:
    """Generate what is missing; how samples are made, and the model's registry name."""
    from mindformers_codellama.evaluation.generate_samples import generate_samples, missing_places

    every = read_samples(task.samples, task.every, partial=True) if task.samples.exists() else {}
    there = {place: completion for place, completion in every.items() if place.task_id in task.problems.tasks}
    places = missing_places(task.problems, task.every, arguments.num_samples, there)
    if arguments.dry_run:
        print(f"{len(there)} samples are there, {len(places)} would be made in {task.samples}")
        return {}, ""
    opened = open_from(arguments, alone="eval", infills=suite.infills)
    questions = suite.questions(arguments, opened, eval_generation(arguments, opened), task.every)
    made = model_settings(arguments, opened, questions.config) | {"data_sha256": task.every.sha256, **questions.made}
    made = dict(json.loads(json.dumps(made)))
    keep_settings(task.samples.with_name(SETTINGS), made, begun=bool(every))
    with bar("sample", arguments) as show, stopping_on_interrupt() as should_stop:
        count = [len(there)]

        def on_samples(new: int) -> None:
            count[0] += new
            show(count[0], len(there) + len(places))

        generate_samples(
            opened.model,
            opened.tokenizer,
            questions.config,
            task.problems.tasks,
            questions.ask,
            places,
            task.samples,
            batch_size=arguments.batch_size or opened.batch_size,
            on_samples=on_samples,
            should_stop=should_stop,
        )
    return made, opened.name


def eval_generation(arguments: argparse.Namespace, opened: OpenedModel) -> GenerationConfig:
    """How completions are made: greedy unless told, at most `LONGEST_ANSWER` tokens, drawn from seed 0.

    Raises:
        ConfigError: several samples that would all be the same.
    """
    given = {"do_sample": False, "max_new_tokens": LONGEST_ANSWER, "use_past": True} | generation_options(arguments, sampling=False)
    if arguments.num_samples > 1 and not given["do_sample"]:
        fix = "--do-sample --temperature 0.8 --top-p 0.95 --top-k 0, as in the paper."
        raise ConfigError("-n", f"{arguments.num_samples} greedy samples of a task are all the same.", fix=fix)
    config = opened.generation.updated(**given)
    return config.updated(seed=config.seed or 0)


def ending_as(config: GenerationConfig, ids: Sequence[int]) -> GenerationConfig:
    """The options with further ids that end an answer."""
    return config.updated(eos_token_id=tuple(dict.fromkeys((*config.eos_token_ids, *ids))))
