"""Many questions asked, in batches, written as they are answered; only those that are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.evaluation.choices.answers import NONE, Answer, by_generation, by_logit
from mindformers_codellama.evaluation.choices.prompts import Prompt, fitted, letter_ids, require_room
from mindformers_codellama.evaluation.choices.questions import Exam, Question
from mindformers_codellama.evaluation.choices.records import Given, Records
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.text.tokenizer import LlamaTokenizer

LOGIT, GENERATION = "logit", "generation"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a model is asked."""

    decoder: Decoder
    tokenizer: LlamaTokenizer
    config: GenerationConfig
    """Greedy; `max_new_tokens` counts with `GENERATION`."""
    by: str
    """`LOGIT` or `GENERATION`."""
    batch_size: int = 1

    @property
    def room(self) -> int:
        """Tokens a prompt may have."""
        return self.decoder.max_length - ((self.config.max_new_tokens or 0) if self.by == GENERATION else 0)


def ask(
    asking: Asking,
    exam: Exam,
    questions: Sequence[Question],
    folder: Path | None,
    *,
    on_answers: Callable[[int], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[int, Given]:
    """Ask questions and append the answers to the files of a folder.

    Questions of a subject follow each other, and so share the beginning of their prompts: a decoder that keeps what it has read
    reads the examples once for each subject.

    Args:
        asking: the model.
        exam: holds the examples.
        questions: those to ask.
        folder: of `Records`; None writes nothing, as on ranks but the first.
        on_answers: told how many were written.
        should_stop: asked before every batch; those in the making are then lost.

    Returns:
        Answers by question number. A question that does not fit even without examples is not asked, and counts as wrong.

    Raises:
        TokenizerError: letters that are not one token.
        KeyboardInterrupt: `should_stop`.
    """
    require_room(asking.room)
    letters = letter_ids(exam, asking.tokenizer) if asking.by == LOGIT else ()
    found: dict[int, Given] = {}
    prompts = (fitted(exam, question, asking.tokenizer, asking.room) for question in questions)
    with Records(folder) if folder is not None else nullcontext() as records:
        for batch in _batches(prompts, asking.batch_size):
            if should_stop is not None and should_stop():
                raise KeyboardInterrupt
            answers = _answers(asking, batch, letters, should_stop)
            if records is not None:
                records.add(zip(batch, answers, strict=True))
            found |= {prompt.question.number: Given.of(prompt, answer) for prompt, answer in zip(batch, answers, strict=True)}
            if on_answers is not None:
                on_answers(len(batch))
    return found


def _answers(asking: Asking, batch: list[Prompt], letters: Sequence[int], should_stop: Callable[[], bool] | None) -> list[Answer]:
    fitting = [prompt for prompt in batch if prompt.ids]
    if not fitting:
        answers: list[Answer] = []
    elif asking.by == LOGIT:
        answers = by_logit(asking.decoder, fitting, letters, asking.config.pad_token_id)
    else:
        answers = by_generation(asking.decoder, fitting, asking.config, asking.tokenizer, should_stop)
    given = dict(zip((prompt.question.number for prompt in fitting), answers, strict=True))
    return [given.get(prompt.question.number, Answer(NONE)) for prompt in batch]


def _batches(prompts: Iterator[Prompt], size: int) -> Iterator[list[Prompt]]:
    while batch := list(islice(prompts, size)):
        yield batch
