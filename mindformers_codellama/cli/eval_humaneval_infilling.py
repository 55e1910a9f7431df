"""`codellama eval humaneval-infilling`: parts of HumanEval's solutions filled in, run against the tests in a sandbox."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.eval_programs import LONGEST_ANSWER, Questions, Suite, add_program_arguments, run_programs
from mindformers_codellama.cli.infill import ORDERS
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.evaluation.exactness import nearness, share
from mindformers_codellama.evaluation.infilling_problems import (
    BENCHMARKS,
    InfillingProblem,
    benchmark_of,
    make_infilling_problems,
    read_infilling_problems,
)
from mindformers_codellama.evaluation.problems import Problems, read_problems
from mindformers_codellama.evaluation.published import published
from mindformers_codellama.evaluation.samples import Place

if TYPE_CHECKING:
    from mindformers_codellama.config.generation import GenerationConfig
    from mindformers_codellama.pipelines.open_model import OpenedModel

EXAMPLES = """examples:
  codellama eval humaneval-infilling CodeLlama-7b-hf --data HumanEval-SingleLineInfilling.jsonl.gz --output single_7b --order spm
  codellama eval humaneval-infilling CodeLlama-7b-hf --from-humaneval HumanEval.jsonl.gz --benchmark multi-line --output multi_7b
  codellama eval humaneval-infilling --make single_line.jsonl --from-humaneval HumanEval.jsonl.gz --benchmark single-line
  codellama eval humaneval-infilling --samples samples.jsonl --data HumanEval-RandomSpanInfillingLight.jsonl.gz --json
"""


def add_arguments(suite: argparse.ArgumentParser) -> None:
    """What suites of programs share, where the tasks come from, how the model is asked."""
    add_program_arguments(suite, data="HumanEval-*Infilling.jsonl.gz of github.com/openai/human-eval-infilling", required=False)
    group = suite.add_argument_group("tasks")
    group.add_argument("--from-humaneval", type=Path, metavar="FILE", help="HumanEval.jsonl.gz to make the tasks of, instead of --data")
    group.add_argument("--benchmark", choices=tuple(BENCHMARKS), help="which tasks to make of it")
    group.add_argument("--make", type=Path, metavar="FILE", help="write the tasks as JSON lines and do nothing else")
    group.add_argument("--force", action="store_true", help="replace an existing FILE of --make")
    group = suite.add_argument_group("infilling")
    group.add_argument(
        "--order", choices=tuple(ORDERS), default="auto", help="prefix or suffix first; auto: the model's own order, or by the cursor"
    )
    group.add_argument("--suffix-first", dest="order", action="store_const", const="spm", help="the same as --order spm")
    group.add_argument("--no-heal", dest="heal", action="store_false", help="keep a prefix that ends inside a token as it is")


def run(arguments: argparse.Namespace) -> int:
    """Make the tasks, or generate what is missing, run what was not run, report."""
    if arguments.make is not None:
        return make(arguments)
    return run_programs(arguments, SUITE)


def make(arguments: argparse.Namespace) -> int:
    """Write the tasks."""
    import json

    from mindformers_codellama.data.text_file import new_text_file

    if arguments.from_humaneval is None or arguments.model or arguments.samples is not None:
        raise ConfigError("--make", "takes --from-humaneval and --benchmark alone.", fix="leave model and --samples out.")
    problems, _ = read(arguments)
    with new_text_file(arguments.make, force=arguments.force) as file:
        for problem in problems.tasks.values():
            file.write(json.dumps(asdict(problem)) + "\n")
    print(f"{len(problems.tasks)} tasks in {arguments.make}")
    return 0


def read(arguments: argparse.Namespace) -> tuple[Problems[InfillingProblem], Problems[InfillingProblem]]:
    """All tasks, twice: all are wanted.

    Raises:
        ConfigError: not exactly one source, or no benchmark for it.
        DataError: the file.
    """
    if (arguments.data is None) == (arguments.from_humaneval is None):
        fix = "--data FILE of human-eval-infilling, or --from-humaneval HumanEval.jsonl.gz --benchmark single-line."
        raise ConfigError("eval humaneval-infilling", "needs --data or --from-humaneval, and not both.", fix=fix)
    if (arguments.from_humaneval is None) != (arguments.benchmark is None):
        raise ConfigError("--benchmark", "goes with --from-humaneval; a file of --data says by itself what it is.")
    if arguments.data is not None:
        every = read_infilling_problems(arguments.data)
    else:
        every = make_infilling_problems(read_problems(arguments.from_humaneval), arguments.benchmark)
    return every, every


def questions(arguments: argparse.Namespace, opened: OpenedModel, config: GenerationConfig, every: Problems[InfillingProblem]) -> Questions:
    """Prefix and suffix; the middle ends where the model says."""
    from mindformers_codellama.evaluation.ask_middles import ask_for_middle
    from mindformers_codellama.pipelines.infilling import InfillingPipeline, InfillOptions

    pipe = InfillingPipeline(opened.model, opened.tokenizer, name=opened.name)
    infill = InfillOptions(suffix_first=ORDERS[arguments.order], until="eot", heal=arguments.heal)
    if arguments.max_new_tokens is None:  # short models have less room
        positions = opened.model.decoder(use_past=config.use_past).max_length
        config = config.updated(max_new_tokens=min(LONGEST_ANSWER, positions // 2))
    config = pipe.completed(config)
    made = {
        "benchmark": benchmark_of(every),
        "order": arguments.order,
        "heal": arguments.heal,
        "prompt": "prefix and suffix of the task with the infilling tokens",
        "stop_rule": "eot: where the model says",
    }
    return Questions(ask=ask_for_middle(pipe, infill, config), config=config, made=made)


def figures(arguments: argparse.Namespace, name: str, every: Problems[InfillingProblem]) -> Mapping[str, Any]:
    """The paper's figure for this benchmark and order."""
    return published("humaneval-infilling", name, benchmark=benchmark_of(every), suffix_first=ORDERS[arguments.order])


def exactness(problems: Problems[InfillingProblem], completions: Mapping[Place, str]) -> dict[str, float]:
    """Share of samples that are what stood there, white space behind it aside."""
    same = [nearness(text, problems.tasks[place.task_id].canonical_solution).exact for place, text in completions.items()]
    return {"exact_match": share(same)}


SUITE = Suite(name="humaneval-infilling", read=read, questions=questions, published=figures, infills=True, more=exactness)
