"""Speed of one case after another: every row a prompt of fixed length, every answer its full length, greedy.

Two ways to time a case, each as the scripts measure whose tables are written (performance_files.py):
`time_separately` makes the first token once more by itself (the sweep of the ATB speed scripts), `time_together` reads it off the
one generation (the ATB model tests).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.generation.loop import generate_rows
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.pipelines.performance_cases import Case

WARM_TOKENS = 10
"""New tokens of the warm-up before every case."""

Rows = list[list[int]]
_ROW_NUMBERS = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one case took."""

    case: Case
    total_seconds: float
    """Prompt and all new tokens."""
    first_seconds: float
    """Prompt and first token."""

    @property
    def next_seconds(self) -> float:
        """Mean of the tokens after the first; 0 when there is only one."""
        count = self.case.output_length - 1
        return (self.total_seconds - self.first_seconds) / count if count else 0.0

    @property
    def next_rate(self) -> float:
        """Tokens per second of all rows after the first token; 0 when there is only one, or time stood still."""
        return self.case.batch / self.next_seconds if self.next_seconds > 0 else 0.0

    @property
    def whole_rate(self) -> float:
        """Tokens per second of all rows, prompt included."""
        return self.case.batch * self.case.output_length / self.total_seconds


def fixed_length(prompts: Sequence[Sequence[int]], case: Case, pad_token_id: int) -> Rows:
    """The case's rows: prompts repeated in turn, padded at the left or cut at the right to the case's input length.

    The padding is read like any other token, so that every row costs what its length says.
    """
    rows = [list(prompts[row % len(prompts)])[: case.input_length] for row in range(case.batch)]
    return [[pad_token_id] * (case.input_length - len(row)) + row for row in rows]


def random_rows(vocab_size: int, case: Case, number: int) -> Rows:
    """Rows of random token ids; another number draws others."""
    rng = np.random.default_rng([number, case.batch, case.input_length])
    return [[int(token) for token in row] for row in rng.integers(0, vocab_size, (case.batch, case.input_length))]


def unlike_any_before(rows: Rows, vocab_size: int) -> Rows:
    """Rows whose first two tokens are a running number: a decoder that remembers beginnings finds none of them."""
    changed = []
    for row in rows:
        number = next(_ROW_NUMBERS)
        changed.append([number % vocab_size, number // vocab_size % vocab_size][: len(row)] + row[2:])
    return changed


def run_once(decoder: Decoder, rows: Rows, base: GenerationConfig, new_tokens: int) -> tuple[float, float]:
    """Generate exactly so many tokens per row; (seconds in all, seconds to the first token)."""
    rows = unlike_any_before(rows, decoder.vocab_size)
    config = base.updated(max_new_tokens=new_tokens, do_sample=False, num_beams=1, eos_token_ids=(), stop_strings=())
    start = time.perf_counter()
    result = generate_rows(decoder, rows, config)
    seconds = time.perf_counter() - start
    assert all(len(ids) == len(row) + new_tokens for ids, row in zip(result.ids, rows, strict=True)), "an answer is short"
    return seconds, result.stats.first_token_seconds


def warm_up(decoder: Decoder, rows: Rows, base: GenerationConfig, case: Case) -> None:
    """Ten tokens, or what the case has room for: graphs are compiled, memory is taken."""
    run_once(decoder, rows, base, min(WARM_TOKENS, case.output_length))


def time_separately(decoder: Decoder, rows: Rows, base: GenerationConfig, case: Case) -> Timing:
    """Warm-up, then one token alone, then the whole answer."""
    warm_up(decoder, rows, base, case)
    first, _ = run_once(decoder, rows, base, 1)
    total, _ = run_once(decoder, rows, base, case.output_length)
    return Timing(case=case, total_seconds=total, first_seconds=first)


def time_together(decoder: Decoder, rows: Rows, base: GenerationConfig, case: Case) -> Timing:
    """Warm-up, then the whole answer, its first token timed in passing."""
    warm_up(decoder, rows, base, case)
    total, first = run_once(decoder, rows, base, case.output_length)
    return Timing(case=case, total_seconds=total, first_seconds=first)
