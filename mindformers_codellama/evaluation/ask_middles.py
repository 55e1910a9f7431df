"""Infilling questions: what stands between a prefix and a suffix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.evaluation.generate_samples import Ask, Asked
from mindformers_codellama.text.holes import Hole

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.infilling import InfillingPipeline, InfillOptions


class HoleTask(Protocol):
    """A task that asks for a middle."""

    @property
    def hole(self) -> Hole:
        """The cursor."""
        ...


def ask_for_middle(pipe: InfillingPipeline, infill: InfillOptions, config: GenerationConfig) -> Ask:
    """The cursor of a task; samples say why the middle ended and how the model was asked.

    Args:
        pipe: model and tokenizer.
        infill: how the model is asked, and where a middle ends.
        config: from `pipe.completed`.
    """

    def ask(task: HoleTask) -> Asked:
        hole = task.hole
        prompt, rule = pipe.request(hole, infill, config)

        def record(text: str, reason: str) -> dict[str, Any]:
            order = "spm" if prompt.suffix_first else "psm"
            return {"completion": hole.with_line_ends(text), "finish_reason": reason, "order": order, "trimmed": prompt.trimmed}

        return Asked(ids=prompt.ids, rule=rule, record=record)

    return ask
