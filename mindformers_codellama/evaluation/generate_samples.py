"""Samples of a model, in batches, written as they are made; only those that are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.evaluation.problems import Problems
from mindformers_codellama.evaluation.samples import LineFile, Place
from mindformers_codellama.generation.loop import Listeners, generate_rows
from mindformers_codellama.generation.stopping import AnswerRule
from mindformers_codellama.text.tokenizer import LlamaTokenizer

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.generating import CausalLM


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a model is asked for one sample."""

    ids: Sequence[int]
    """The prompt."""
    rule: AnswerRule
    """Where the answer ends."""
    record: Callable[[str, str], dict[str, Any]]
    """The fields of a sample beside `task_id`, of the answer's text and why it ended; `completion` is among them."""


Ask = Callable[[Any], Asked]
"""A task to what the model is asked."""


def missing_places(problems: Problems[Any], every: Problems[Any], samples: int, there: Mapping[Place, object]) -> list[tuple[int, Place]]:
    """Samples still to be made, with the number that seeds each, in order of the number.

    A sample's number is its place among all tasks of the file, sample after sample: number = sample * tasks + task. So it does not
    depend on `--limit`, on the number of samples, nor on what an interrupted run has made.

    Args:
        problems: tasks wanted.
        every: all tasks of the file.
        samples: n, of each task.
        there: made already.
    """
    order = {task: at for at, task in enumerate(every.tasks)}
    places = [Place(task, number) for number in range(samples) for task in problems.tasks]
    return [(place.number * len(order) + order[place.task_id], place) for place in places if place not in there]


def batches(places: Sequence[tuple[int, Place]], size: int) -> list[list[tuple[int, Place]]]:
    """Samples whose numbers follow each other, at most `size` together: a batch is seeded by its first number."""
    runs = groupby(enumerate(places), key=lambda entry: entry[1][0] - entry[0])
    found = []
    for _, entries in runs:
        run = [entry for _, entry in entries]
        found += [run[at : at + size] for at in range(0, len(run), size)]
    return found


def generate_samples(  # noqa: PLR0913 - what a run is made of
    model: CausalLM,
    tokenizer: LlamaTokenizer,
    config: GenerationConfig,
    tasks: Mapping[str, Any],
    ask: Ask,
    places: Sequence[tuple[int, Place]],
    path: Path,
    *,
    batch_size: int = 1,
    on_samples: Callable[[int], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Make samples and append them to a file.

    Args:
        model: with its weights.
        tokenizer: of the model.
        config: every option; its seed and a sample's number give the random numbers.
        tasks: by name.
        ask: how a task is asked.
        places: from `missing_places`.
        path: JSON lines.
        batch_size: samples at once.
        on_samples: told how many were written.
        should_stop: asked before every token; the samples in the making are then lost.

    Raises:
        GenerationError: a prompt too long for the model; KeyboardInterrupt: `should_stop`.
    """
    if config.num_beams > 1:
        raise GenerationError("num_beams", "beam search knows no end of a function.", fix="use num_beams 1.")
    decoder = model.decoder(use_past=config.use_past)
    with LineFile(path) as file:
        for batch in batches(places, batch_size):
            asked = [ask(tasks[place.task_id]) for _, place in batch]
            result = generate_rows(
                decoder,
                [one.ids for one in asked],
                config,
                tokenizer=tokenizer,
                listeners=Listeners(should_stop=should_stop),
                first_row=batch[0][0],
                rules=[one.rule for one in asked],
            )
            if "cancelled" in result.finish_reasons:
                raise KeyboardInterrupt
            assert result.texts is not None
            answers = zip(batch, asked, result.texts, result.finish_reasons, strict=True)
            file.write({"task_id": place.task_id, **one.record(text, reason)} for (_, place), one, text, reason in answers)
            if on_samples is not None:
                on_samples(len(batch))
