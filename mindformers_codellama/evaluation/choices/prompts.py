"""Prompts of multiple-choice questions, word for word as published, with as many examples as the model has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mindformers_codellama.errors import GenerationError, TokenizerError
from mindformers_codellama.evaluation.choices.questions import Exam, Question
from mindformers_codellama.evaluation.choices.suites import LETTERS, Suite
from mindformers_codellama.text.tokenizer import LlamaTokenizer


@dataclass(frozen=True)
class Prompt:
    """What the model is asked."""

    question: Question
    ids: list[int]
    """Begin token and text; empty when the question does not fit even alone."""
    shots: int
    """Solved examples in it."""


def asked(suite: Suite, question: Question) -> str:
    """A question and its answers, up to the cue."""
    lines = [f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True)]
    return question.text + "".join(lines) + suite.cue


def prompt_text(suite: Suite, question: Question, examples: Sequence[Question]) -> str:
    """The whole prompt."""
    solved = (f"{asked(suite, example)}{suite.lead}{example.answer}\n\n" for example in examples)
    return suite.head.format(suite.subjects[question.subject].title) + "".join(solved) + asked(suite, question)


def fitted(exam: Exam, question: Question, tokenizer: LlamaTokenizer, room: int) -> Prompt:
    """The prompt with all examples, or without the last of them until it has at most `room` tokens.

    Text of the questions is never a special token.
    """
    examples = exam.examples[question.subject]
    for shots in range(len(examples), -1, -1):
        ids = tokenizer.encode_pieces(prompt_text(exam.suite, question, examples[:shots]), bos=True, eos=False)
        if len(ids) <= room:
            return Prompt(question, ids, shots)
    return Prompt(question, [], 0)


def letter_ids(exam: Exam, tokenizer: LlamaTokenizer) -> tuple[int, ...]:
    """The token each letter is when it follows a prompt as it follows the examples: ` A` behind `Answer:`, `A` behind `答案：`.

    Raises:
        TokenizerError: a letter that is not one token there.
    """
    suite, question = exam.suite, exam.questions[0]
    text = prompt_text(suite, question, exam.examples[question.subject])
    before = tokenizer.encode_pieces(text, bos=True, eos=False)
    found = []
    for letter in LETTERS:
        ids = tokenizer.encode_pieces(text + suite.lead + letter, bos=True, eos=False)
        if ids[:-1] != before or ids[-1] == tokenizer.unk_token_id:
            problem = f"{suite.lead + letter!r} behind {suite.cue!r} is not one token of this tokenizer."
            raise TokenizerError(tokenizer.path, problem, fix="--answer-by generation.")
        found.append(ids[-1])
    return tuple(found)


def require_room(room: int) -> None:
    """Refuse a model without room for any prompt.

    Raises:
        GenerationError: it has none.
    """
    if room < 1:
        raise GenerationError(
            "--max-new-tokens", "leaves no room for a prompt in the model's positions.", fix="fewer, or a larger --seq-length."
        )
