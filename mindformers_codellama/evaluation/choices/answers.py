"""The letter a model answers with: the likeliest of the four next tokens, or the first letter it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_letters

import numpy as np

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.evaluation.choices.prompts import Prompt
from mindformers_codellama.evaluation.choices.suites import LETTERS
from mindformers_codellama.generation.loop import Listeners, generate_rows
from mindformers_codellama.generation.prompts import right_pad
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.generation.sampling import check_logits, log_softmax
from mindformers_codellama.generation.stopping import AnswerRule
from mindformers_codellama.text.tokenizer import LlamaTokenizer

NONE = "-1"
"""What is written when there is no letter, as the ATB scripts do."""


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    letter: str
    """A to D; another letter that was written, upper-cased; or `NONE`."""
    logprobs: tuple[float, ...] = ()
    """Natural logarithms of the probabilities of A to D as the next token, among all tokens."""
    text: str = ""
    """What was written, up to its first letter."""


class FirstLetter:
    """Stop rule: the answer ends behind its first letter of a to z, in either case."""

    def end(self, text: str, start: int) -> int:
        """Behind the first letter."""
        return next((place + 1 for place, char in enumerate(text) if char in ascii_letters), -1)

    def held_back(self, text: str) -> int:
        """Nothing."""
        return 0


def by_logit(decoder: Decoder, prompts: Sequence[Prompt], letters: Sequence[int], pad_token_id: int) -> list[Answer]:
    """The likeliest of the four letters as the next token; of equals the first.

    Raises:
        GenerationError: logits that are no numbers.
    """
    tokens_BT, lengths_B = right_pad([prompt.ids for prompt in prompts], pad_token_id)
    logits_BV = decoder.prefill(tokens_BT, lengths_B)
    check_logits(logits_BV, [prompt.question.number for prompt in prompts], 0)
    chosen_B4 = log_softmax(logits_BV)[:, list(letters)]
    best_B = np.argmax(np.asarray(logits_BV)[:, list(letters)], axis=1)
    return [Answer(LETTERS[best], tuple(map(float, chosen_4))) for best, chosen_4 in zip(best_B, chosen_B4, strict=True)]


def by_generation(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    config: GenerationConfig,
    tokenizer: LlamaTokenizer,
    should_stop: Callable[[], bool] | None = None,
) -> list[Answer]:
    """The first letter of a greedy answer, upper-cased, whatever stands around it.

    Raises:
        KeyboardInterrupt: `should_stop`.
    """
    result = generate_rows(
        decoder,
        [prompt.ids for prompt in prompts],
        config,
        tokenizer=tokenizer,
        listeners=Listeners(should_stop=should_stop),
        first_row=prompts[0].question.number,
        rules=[AnswerRule(stop=FirstLetter()) for _ in prompts],
    )
    if "cancelled" in result.finish_reasons:
        raise KeyboardInterrupt
    assert result.texts is not None
    return [Answer(_letter(text), text=text) for text in result.texts]


def _letter(text: str) -> str:
    return next((char.upper() for char in text if char in ascii_letters), NONE)
