"""What a generation returns beside the ids: texts, why each row ended, and speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

from mindformers_codellama.generation.protocol import Int32


@dataclass(frozen=True, kw_only=True)
class GenerationStats:
    """Sizes and wall-clock times of one call."""

    prompt_tokens: int
    """Sum over the rows."""
    new_tokens: int
    """Tokens chosen, sum over the rows, end tokens included."""
    first_token_seconds: float
    """Reading the prompts and choosing the first token, compilation included."""
    total_seconds: float
    steady_tokens: int = 0
    """New tokens after the second of each row."""
    steady_seconds: float = 0.0
    """From the second token on: the first two wait for graphs to be compiled."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all rows per second once everything is compiled; 0 when no answer had a third token."""
        return self.steady_tokens / self.steady_seconds if self.steady_seconds > 0 else 0.0

    def __add__(self, other: GenerationStats) -> GenerationStats:
        """Two calls one after the other (batches of one request); the first token is that of the first call."""
        return GenerationStats(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            new_tokens=self.new_tokens + other.new_tokens,
            first_token_seconds=self.first_token_seconds,
            total_seconds=self.total_seconds + other.total_seconds,
            steady_tokens=self.steady_tokens + other.steady_tokens,
            steady_seconds=self.steady_seconds + other.steady_seconds,
        )

    def __str__(self) -> str:
        speed = f", then {self.tokens_per_second:.1f} tokens/s" if self.steady_tokens else ""
        return (
            f"{self.prompt_tokens} prompt tokens, {self.new_tokens} new tokens in {self.total_seconds:.2f} s, "
            f"first after {self.first_token_seconds:.2f} s{speed}"
        )


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """Answers in the order of the prompts."""

    ids: list[Int32]
    """Prompt and new tokens of each row, the end token included, a stop string excluded."""
    prompt_lengths: list[int]
    texts: list[str] | None
    """New text of each row without end tokens and stop strings; None without a tokenizer."""
    finish_reasons: list[str]
    """`eos`, `stop` (a stop string), `length`, or `cancelled`."""
    stats: GenerationStats
    scores: list[float] | None = None
    """Beam search: log-probability of the answer divided by its length to the power `length_penalty`."""

    def new_ids(self, row: int) -> Int32:
        """New tokens of one row."""
        return self.ids[row][self.prompt_lengths[row] :]


@dataclass
class Clock:
    """Times one call."""

    start: float = field(default_factory=time.perf_counter)
    marks: list[float] = field(default_factory=list)
    """When the first two tokens came."""

    def mark_token(self) -> None:
        """Note a token of every row; only the first two count."""
        if len(self.marks) < 2:
            self.marks.append(time.perf_counter() - self.start)

    def stats(self, prompt_lengths: list[int], new_tokens: list[int]) -> GenerationStats:
        """Close the account."""
        total = time.perf_counter() - self.start
        return GenerationStats(
            prompt_tokens=sum(prompt_lengths),
            new_tokens=sum(new_tokens),
            first_token_seconds=self.marks[0] if self.marks else total,
            total_seconds=total,
            steady_tokens=sum(max(0, count - 2) for count in new_tokens),
            steady_seconds=total - self.marks[1] if len(self.marks) > 1 else 0.0,
        )


def joined(results: Sequence[GenerationResult]) -> GenerationResult:
    """Batches of one request, in order, as one result; at least one."""
    texts = [result.texts for result in results]
    scores = [result.scores for result in results]
    return GenerationResult(
        ids=[ids for result in results for ids in result.ids],
        prompt_lengths=[length for result in results for length in result.prompt_lengths],
        texts=None if None in texts else [text for batch in texts for text in batch or ()],
        finish_reasons=[reason for result in results for reason in result.finish_reasons],
        stats=reduce(add, (result.stats for result in results)),
        scores=None if None in scores else [score for batch in scores for score in batch or ()],
    )
