"""What a generation returns beside the ids: texts, why each row ended, and speed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mindformers_codellama.generate.protocol import Int32


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

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all rows per second after the first token of each; 0 when there was only that one."""
        seconds = self.total_seconds - self.first_token_seconds
        later = self.later_tokens
        return later / seconds if later > 0 and seconds > 0 else 0.0

    later_tokens: int = 0
    """New tokens after the first of each row."""

    def __add__(self, other: GenerationStats) -> GenerationStats:
        """Two calls one after the other (batches of one request); the first token is that of the first call."""
        # The later call's reading of its prompts is no decoding, so it is kept out of tokens_per_second.
        idle = other.first_token_seconds
        return GenerationStats(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            new_tokens=self.new_tokens + other.new_tokens,
            first_token_seconds=self.first_token_seconds,
            total_seconds=self.total_seconds + other.total_seconds - idle,
            later_tokens=self.later_tokens + other.later_tokens,
        )

    def __str__(self) -> str:
        return (
            f"{self.prompt_tokens} prompt tokens, {self.new_tokens} new tokens in {self.total_seconds:.2f} s, "
            f"first after {self.first_token_seconds:.2f} s, then {self.tokens_per_second:.1f} tokens/s"
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
    first: float | None = None

    def mark_token(self) -> None:
        """Note the first token; later calls change nothing."""
        if self.first is None:
            self.first = time.perf_counter() - self.start

    def stats(self, prompt_lengths: list[int], new_tokens: list[int]) -> GenerationStats:
        """Close the account."""
        total = time.perf_counter() - self.start
        return GenerationStats(
            prompt_tokens=sum(prompt_lengths),
            new_tokens=sum(new_tokens),
            first_token_seconds=total if self.first is None else self.first,
            total_seconds=total,
            later_tokens=sum(max(0, count - 1) for count in new_tokens),
        )
