"""What `codellama eval mmlu` and `codellama eval ceval` share: arguments, asking, files, report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.cli.eval_output import REPORT, SETTINGS, bar, keep_settings, model_settings, write_json
from mindformers_codellama.cli.generation_options import MODEL_HELP, add_opening_arguments, open_from
from mindformers_codellama.cli.interrupts import stopping_on_interrupt
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.evaluation.choices.ask import GENERATION, LOGIT, Asking, ask
from mindformers_codellama.evaluation.choices.prompts import letter_ids
from mindformers_codellama.evaluation.choices.questions import SPLITS, Exam, Question, read_exam
from mindformers_codellama.evaluation.choices.records import CACHE, Given, read_given
from mindformers_codellama.evaluation.choices.suites import Suite
from mindformers_codellama.evaluation.choices.summary import (
    CLASSES,
    SUBJECTS,
    classes_summary,
    report,
    scores,
    subjects_summary,
    submission,
    told,
)

if TYPE_CHECKING:
    from mindformers_codellama.parallel.comm import Comm
    from mindformers_codellama.pipelines.open_model import OpenedModel

SUBMISSION = "submission.json"
SHOTS = 5
LONGEST_ANSWER = 32
"""Tokens of a written answer when nothing is said, as in the ATB scripts."""


def add_choice_arguments(parser: argparse.ArgumentParser, suite: Suite) -> None:
    """Questions, how they are asked, output, the model."""
    parser.add_argument("model", metavar="CONFIG|DIR", help=MODEL_HELP)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="holds dev, val and test, itself or in its folder data")
    parser.add_argument("--split", choices=SPLITS, default=suite.split, help="where the questions come from (default: %(default)s)")
    parser.add_argument("--subjects", default="", metavar="NAME,...", help="these subjects alone")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N questions of each subject alone")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON")
    parser.add_argument("--dry-run", action="store_true", help="read and check the data, and say what would be asked")
    group = parser.add_argument_group("asking")
    group.add_argument("--shots", type=int, default=SHOTS, metavar="N", help="solved examples before each question (default %(default)s)")
    group.add_argument(
        "--answer-by", choices=(LOGIT, GENERATION), default=LOGIT, help="the likeliest of the four letters, or the first written"
    )
    group.add_argument(
        "--max-new-tokens", type=int, default=LONGEST_ANSWER, metavar="N", help="longest written answer (default %(default)s)"
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="questions at once; default: the configuration's")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help=f"holds {CACHE} and the summaries; run again, it is gone on with"
    )
    group = add_opening_arguments(parser)
    line = "ranks that hold the model together, started with codellama launch; default: the configuration's, else 1"
    group.add_argument("--world-size", type=int, metavar="N", help=line)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be asked, read and checked."""

    exam: Exam
    questions: tuple[Question, ...]
    there: Mapping[int, Given]
    """Answers of earlier runs."""

    @property
    def missing(self) -> list[Question]:
        """Questions without an answer yet."""
        return [question for question in self.questions if question.number not in self.there]


def run_choices(arguments: argparse.Namespace, suite: Suite) -> int:
    """Ask what is missing, average, write."""
    task = read_task(arguments, suite)
    if arguments.dry_run:
        print(f"{len(task.questions)} of {len(task.exam.questions)} questions in {len({one.subject for one in task.questions})} subjects")
        print(f"{len(task.questions) - len(task.missing)} are answered, {len(task.missing)} would be asked in {arguments.output}")
        return 0
    opened = open_from(arguments)
    made, given = answer_missing(arguments, task, opened)
    if opened.comm.rank == 0:
        tell(arguments, task, given, made, model=opened.name)
    return 0


def tell(arguments: argparse.Namespace, task: Task, given: Mapping[int, Given], made: Mapping[str, Any], *, model: str) -> None:
    """Write and print the averages, or the submission when the right answers are not known."""
    if task.exam.has_answers:
        found = scores(task.exam, task.questions, given)
        write_json(arguments.output / SUBJECTS, subjects_summary(found))
        write_json(arguments.output / CLASSES, classes_summary(found))
        result = report(task.exam, task.questions, given, made, model=model)
        sentence = told(result)
    else:
        write_json(arguments.output / SUBMISSION, submission(task.questions, given))
        result = {"suite": task.exam.suite.name, "split": task.exam.split, "questions": len(task.questions), "made": dict(made)}
        sentence = f"{len(task.questions)} answers are in {arguments.output / SUBMISSION}; the right ones are not in these files."
    write_json(arguments.output / REPORT, result)
    print(json.dumps(result) if arguments.as_json else sentence)


def read_task(arguments: argparse.Namespace, suite: Suite) -> Task:
    """Read and check everything that costs little.

    Raises:
        ConfigError: options out of range, subjects that are not there.
        DataError: the data, or answers that are not of it.
    """
    for name, least in (("limit", 1), ("batch_size", 1), ("max_new_tokens", 1), ("shots", 0), ("world_size", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')}", f"got {value}, must be at least {least}.")
    exam = read_exam(arguments.data, suite, split=arguments.split, shots=arguments.shots)
    names = tuple(name.strip() for name in arguments.subjects.split(",") if name.strip())
    questions = exam.chosen(names, arguments.limit)
    there = read_given(arguments.output, exam.questions, asked_shots=arguments.shots)
    return Task(exam=exam, questions=questions, there=there)


def answer_missing(arguments: argparse.Namespace, task: Task, opened: OpenedModel) -> tuple[dict[str, Any], dict[int, Given]]:
    """Ask what is not answered yet; how it is done, and all answers. Every rank asks, the first writes."""
    from mindformers_codellama.config.generation import GenerationConfig
    from mindformers_codellama.parallel.agreement import together

    config = GenerationConfig(
        max_new_tokens=arguments.max_new_tokens,
        eos_token_ids=opened.generation.eos_token_ids,
        pad_token_id=opened.generation.pad_token_id,
        bos_token_id=opened.generation.bos_token_id,
        use_past=opened.generation.use_past,
        seed=0,
    )
    asking = Asking(
        decoder=opened.model.decoder(use_past=config.use_past),
        tokenizer=opened.tokenizer,
        config=config,
        by=arguments.answer_by,
        batch_size=arguments.batch_size or opened.batch_size,
    )
    made = settings(arguments, task, opened, asking)
    comm = None if opened.comm.is_alone else opened.comm
    folder = arguments.output if opened.comm.rank == 0 else None
    task = agreed(task, comm)
    missing, begun = task.missing, bool(task.there)

    def keep() -> None:
        if folder is not None:
            keep_settings(folder / SETTINGS, made, begun=begun)

    together(comm, keep, doing="looking at earlier answers")
    # one of several ranks must not stop before the others: an interrupt ends all of them
    stopping = stopping_on_interrupt() if comm is None else nullcontext()
    with bar("question", arguments) as show, stopping as should_stop:
        count = [len(task.questions) - len(missing)]
        show(count[0], len(task.questions))

        def on_answers(new: int) -> None:
            count[0] += new
            show(count[0], len(task.questions))

        given = ask(asking, task.exam, missing, folder, on_answers=on_answers, should_stop=should_stop)
    return made, {**task.there, **given}


def agreed(task: Task, comm: Comm | None) -> Task:
    """The task with what the first rank has answered: another machine may not see its folder, and must not ask other questions.

    Raises:
        ConfigError: the ranks have other data, or were asked for other questions.
    """
    from mindformers_codellama.parallel.agreement import gather

    mine = (task.exam.sha256, task.exam.examples_sha256, [question.number for question in task.questions])
    found = gather(comm, (mine, task.there), doing="agreeing on the questions")
    if any(theirs != mine for theirs, _ in found):
        raise ConfigError("--data", "is not the same on every rank, or other questions are asked for.", fix="start every rank alike.")
    return replace(task, there=found[0][1])


def settings(arguments: argparse.Namespace, task: Task, opened: OpenedModel, asking: Asking) -> dict[str, Any]:
    """All that decides what the answers are."""
    exam = task.exam
    made = model_settings(arguments, opened) | {
        "data_sha256": exam.sha256,
        "examples_sha256": exam.examples_sha256,
        "split": exam.split,
        "shots": arguments.shots,
        "prompt": "the published one, behind the begin token; no chat format",
        "positions": asking.decoder.max_length,
        "answer_by": asking.by,
    }
    if asking.by == LOGIT:
        made["letter_ids"] = list(letter_ids(exam, asking.tokenizer))
        made["stop_rule"] = "the likeliest of the four letters as the next token"
    else:
        made["max_new_tokens"] = asking.config.max_new_tokens
        made["stop_rule"] = "greedy, up to the first letter a to z"
    return dict(json.loads(json.dumps(made)))
