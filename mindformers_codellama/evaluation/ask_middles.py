"""Infilling questions: what stands between a prefix and a suffix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.evaluation.generate_samples import Ask, Asked
from mindformers_codellama.generation.infill_stop import infill_stop
from mindformers_codellama.generation.stopping import AnswerRule
from mindformers_codellama.text.healing import take_off
from mindformers_codellama.text.holes import Hole
from mindformers_codellama.text.infilling import prefix_ids
from mindformers_codellama.text.infilling_fit import keep_tail
from mindformers_codellama.text.stream import without_cut_character

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.infilling import InfillingPipeline, InfillOptions


class HoleTask(Protocol):
    """A task that asks for a middle."""

    @property
    def hole(self) -> Hole:
        """The cursor."""
        ...


def middle(hole: Hole, text: str, reason: str) -> str:
    """An answer as `codellama infill` puts it into the file."""
    return hole.with_line_ends(without_cut_character(text, reason))


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
            return {"completion": middle(hole, text, reason), "finish_reason": reason, "order": order, "trimmed": prompt.trimmed}

        return Asked(ids=prompt.ids, rule=rule, record=record)

    return ask


def before_rest_of_line(text: str, suffix: str) -> str:
    """The text up to where it says again what stands in the cursor's line behind the cursor; all of it where it does not."""
    rest = suffix.partition("\n")[0]
    at = text.find(rest, 1) if rest.strip() else -1
    return text if at < 0 else text[:at]


def ask_to_continue(pipe: InfillingPipeline, until: str, config: GenerationConfig) -> Ask:
    """The text before the cursor alone, as a model without infilling sees it: what infilling has to be better than.

    A token that the cursor cuts is healed, as it is for middles. Where text follows in the cursor's line, an answer ends before
    that text when it comes to it: a model that cannot see what follows would not know where to end.

    Args:
        pipe: model and tokenizer.
        until: where an answer ends, as for middles, by the rule that knows the suffix.
        config: from `pipe.completed`.
    """
    tokenizer = pipe.tokenizer
    assert config.max_new_tokens is not None
    room = pipe.model.decoder(use_past=config.use_past).max_length - config.max_new_tokens - 1  # one more for <s>

    def ask(task: HoleTask) -> Asked:
        hole = task.hole
        prefix, suffix = hole.prefix.replace("\r\n", "\n"), hole.suffix.replace("\r\n", "\n")
        kept = keep_tail(tokenizer, prefix, room)
        ids, healed = take_off(tokenizer, prefix_ids(tokenizer, kept))
        rule = AnswerRule(begins=healed, stop=infill_stop(prefix, suffix, until=until), apart=True)

        def record(text: str, reason: str) -> dict[str, Any]:
            own = before_rest_of_line(text, suffix)
            return {"completion": middle(hole, own, reason), "finish_reason": reason, "order": "prefix", "trimmed": kept != prefix}

        return Asked(ids=[tokenizer.bos_token_id, *ids], rule=rule, record=record)

    return ask
