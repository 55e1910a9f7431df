"""Middles of a model, in batches, written as they are made; only those that are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.evaluation.generate_samples import batches
from mindformers_codellama.evaluation.samples import LineFile, Place
from mindformers_codellama.generation.loop import Listeners, generate_rows
from mindformers_codellama.text.holes import Hole

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.infilling import Infilling, InfillingPipeline, InfillOptions


class HoleTask(Protocol):
    """A task that asks for a middle."""

    @property
    def hole(self) -> Hole:
        """The cursor."""
        ...


def generate_middles(  # noqa: PLR0913 - what a run is made of
    pipe: InfillingPipeline,
    infill: InfillOptions,
    config: GenerationConfig,
    tasks: Mapping[str, HoleTask],
    places: Sequence[tuple[int, Place]],
    path: Path,
    *,
    batch_size: int = 1,
    on_samples: Callable[[int], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Make middles and append them to a file.

    Args:
        pipe: model and tokenizer.
        infill: how the model is asked, and where a middle ends.
        config: every generation option; its seed and a sample's number give the random numbers.
        tasks: by name.
        places: from `generate_samples.missing_places`.
        path: JSON lines.
        batch_size: middles at once.
        on_samples: told how many were written.
        should_stop: asked before every token; the middles in the making are then lost.

    Raises:
        GenerationError: no room for an answer; KeyboardInterrupt: `should_stop`.
    """
    from mindformers_codellama.pipelines.infilling import infillings

    decoder = pipe.model.decoder(use_past=config.use_past)
    with LineFile(path) as file:
        for batch in batches(places, batch_size):
            holes = [tasks[place.task_id].hole for _, place in batch]
            prompts, rules, exact = pipe.requests(holes, infill, config)
            result = generate_rows(
                decoder,
                [prompt.ids for prompt in prompts],
                exact,
                tokenizer=pipe.tokenizer,
                listeners=Listeners(should_stop=should_stop),
                first_row=batch[0][0],
                rules=rules,
            )
            if "cancelled" in result.finish_reasons:
                raise KeyboardInterrupt
            found = infillings(holes, prompts, result)
            file.write(middle_record(place, one) for (_, place), one in zip(batch, found, strict=True))
            if on_samples is not None:
                on_samples(len(batch))


def middle_record(place: Place, found: Infilling) -> dict[str, Any]:
    """A line of samples: the official two names, then why the middle ended and how the model was asked."""
    order = "spm" if found.prompt.suffix_first else "psm"
    record = {"task_id": place.task_id, "completion": found.middle, "finish_reason": found.finish_reason}
    return record | {"order": order, "trimmed": found.prompt.trimmed}
