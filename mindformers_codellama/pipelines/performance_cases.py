"""Which cases a speed sweep measures: single, powers of two, or given pairs of input and output lengths.

The rules are those of the ATB speed scripts for Llama 2 (`run.sh --performance`): in and out lengths are 2^i for i in a
half-open range, all combinations; or pairs read side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mindformers_codellama.errors import CodeLlamaError, ConfigError, raise_all

LARGEST_POWER = 20
"""2^20 positions; a range beyond it is a slip of the pen."""


@dataclass(frozen=True)
class Case:
    """One measurement."""

    batch: int
    """Rows."""
    input_length: int
    """Tokens of every prompt."""
    output_length: int
    """New tokens of every row."""

    @property
    def positions(self) -> int:
        """Tokens of a row at its end."""
        return self.input_length + self.output_length


def range_lengths(where: str, first_last: Sequence[int]) -> list[int]:
    """2^i for i in the half-open range.

    Raises:
        ConfigError: not two numbers, or none between them.
    """
    if len(first_last) != 2 or not 0 <= first_last[0] < first_last[1] <= LARGEST_POWER + 1:
        problem = f"got {list(first_last)}, must be [FIRST,LAST] with 0 <= FIRST < LAST <= {LARGEST_POWER + 1}."
        raise ConfigError(where, problem, fix="[5,11] means 2^5, ..., 2^10 tokens: 32, 64, 128, 256, 512, 1024.")
    return [2**power for power in range(first_last[0], first_last[1])]


def combined(inputs: Sequence[int], outputs: Sequence[int]) -> list[tuple[int, int]]:
    """Every input length with every output length, output lengths changing first."""
    return [(first, second) for first in inputs for second in outputs]


def side_by_side(inputs: Sequence[int], outputs: Sequence[int], where: tuple[str, str]) -> list[tuple[int, int]]:
    """Input and output lengths at the same place belong together.

    Raises:
        ConfigError: different numbers of them.
    """
    if len(inputs) != len(outputs):
        problem = f"has {len(outputs)} lengths, {where[0]} has {len(inputs)}; they are read in pairs."
        raise ConfigError(where[1], problem, fix="give as many output lengths as input lengths.")
    return list(zip(inputs, outputs, strict=True))


def cases_of(batches: Sequence[int], pairs: Sequence[tuple[int, int]], *, limit: int, where: str) -> list[Case]:
    """All cases, batch by batch.

    Args:
        batches: numbers of rows.
        pairs: (input length, output length).
        limit: positions one row may have.
        where: what sets the limit.

    Raises:
        ConfigError: a length or batch below 1, or cases longer than the limit; all findings at once.
    """
    found: list[CodeLlamaError] = []
    if not batches or min(batches) < 1:
        found.append(ConfigError("batch", f"got {list(batches)}, every batch has at least 1 row."))
    if not pairs or min(min(pair) for pair in pairs) < 1:
        found.append(ConfigError("case", f"got {[list(pair) for pair in pairs]}, lengths are at least 1 token."))
    long = [pair for pair in pairs if sum(pair) > limit]
    if long:
        worst = max(long, key=sum)
        more = f" and {len(long) - 1} more" if len(long) > 1 else ""
        problem = f"is {limit}, but a case has {worst[0]} + {worst[1]} = {sum(worst)} tokens{more}."
        found.append(ConfigError(where, problem, fix=f"raise it to at least {sum(worst)}, or leave these cases out."))
    raise_all(found)
    return [Case(batch, *pair) for batch in batches for pair in pairs]
