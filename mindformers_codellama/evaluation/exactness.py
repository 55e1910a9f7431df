"""How near a filled-in text is to what stood there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers_codellama.evaluation.pass_at_k import wilson_interval


@dataclass(frozen=True)
class Nearness:
    """One answer against the text that stood there."""

    exact: bool
    """The same, white space at the ends of the texts' last lines aside; indentation counts."""
    stripped: bool
    """The same, white space at both ends aside."""
    similarity: float
    """`edit_similarity` without white space behind both."""


def nearness(answer: str, truth: str) -> Nearness:
    """Compare an answer with the truth; CR LF is read as LF."""
    one, other = (text.replace("\r\n", "\n").rstrip() for text in (answer, truth))
    return Nearness(one == other, one.strip() == other.strip(), edit_similarity(one, other))


def edit_similarity(one: str, other: str) -> float:
    """1 - distance / length of the longer, in [0, 1]; 1 for two empty texts.

    The distance is Levenshtein's: the fewest characters to insert, delete or replace.
    """
    longest = max(len(one), len(other))
    return 1.0 - edit_distance(one, other) / longest if longest else 1.0


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance in characters; time is the product of the lengths.

    Source: Wagner and Fischer, JACM 21 (1974) 168.
    """
    row = list(range(len(other) + 1))
    for above, char in enumerate(one):
        diagonal, row[0] = above, above + 1
        for at, theirs in enumerate(other, 1):
            diagonal, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, diagonal + (char != theirs))
    return row[-1]


def nearness_report(answers: Mapping[str, str], truths: Mapping[str, str], finish_reasons: Sequence[str]) -> dict[str, Any]:
    """Rates over tasks.

    Args:
        answers: by task, at least one.
        truths: what stood there, of every task answered.
        finish_reasons: of the answers.
    """
    found = [nearness(answer, truths[task]) for task, answer in answers.items()]
    rates = {"exact_match": share([one.exact for one in found]), "exact_match_stripped": share([one.stripped for one in found])}
    return {
        **rates,
        "edit_similarity": math.fsum(one.similarity for one in found) / len(found),
        "confidence_95": {name: wilson_interval(rate, len(found)) for name, rate in rates.items()},
        "tasks": len(found),
        "ended_by_model": share([reason == "eos" for reason in finish_reasons]),
    }


def share(flags: Sequence[bool]) -> float:
    """Share of those that are true, in [0, 1]."""
    return sum(flags) / len(flags)
