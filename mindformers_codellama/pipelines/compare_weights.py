"""How a packed model's predictions differ from those of its float32 original: perplexity, KL divergence, agreement.

Shape letters: S positions of a row, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.errors import DataError

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Over all predicted tokens; logarithms are natural."""

    tokens: int
    perplexity_float32: float
    perplexity: float
    """Of the packed weights."""
    mean_kl: float
    """Mean over tokens of the KL divergence from the float32 distribution to the packed one, in nats."""
    max_kl: float
    """Largest of them."""
    top1_agreement: float
    """Share of tokens where both models' likeliest next token is the same, in [0, 1]."""

    def as_dict(self) -> dict[str, float]:
        """For JSON and the manifest."""
        return asdict(self)


class RowLogits(Protocol):
    """Logits of rows of token ids."""

    def __call__(self, rows: Sequence[NDArray[np.int32]]) -> Iterator[tuple[int, int, Floats]]:
        """(row, first position, float32 `(C, V)`), every position once."""


def compare_models(
    rows: Sequence[NDArray[np.int32]],
    reference: RowLogits,
    packed: RowLogits,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Comparison:
    """Compare two models on the same rows, one row at a time, so that the logits of one row are held.

    Args:
        rows: int32 `(S,)` token ids, at least two of each to count.
        reference: the float32 model.
        packed: the other.
        progress: called with (rows done, rows in all).

    Raises:
        DataError: no row has two tokens.
    """
    losses = np.zeros(2)
    divergences: list[Floats] = []
    agreed = tokens = 0
    for done, row in enumerate(rows, 1):
        if len(row) > 1:
            expected, found = (log_probabilities(_whole(model, row[:-1])) for model in (reference, packed))
            for index, values in enumerate((expected, found)):
                losses[index] -= float(np.take_along_axis(values, row[1:, None].astype(np.int64), 1).sum())
            divergences.append(np.maximum((np.exp(expected) * (expected - found)).sum(1), 0).astype(np.float32))
            agreed += int((expected.argmax(1) == found.argmax(1)).sum())
            tokens += len(row) - 1
        if progress:
            progress(done, len(rows))
    if not tokens:
        raise DataError("--evaluate", "holds no text of two tokens or more.", fix="give a mindrecord file or a longer text.")
    all_kl = np.concatenate(divergences)
    perplexities = [math.exp(loss / tokens) if loss / tokens < 700 else math.inf for loss in losses]
    return Comparison(
        tokens=tokens,
        perplexity_float32=perplexities[0],
        perplexity=perplexities[1],
        mean_kl=float(all_kl.mean(dtype=np.float64)),
        max_kl=float(all_kl.max()),
        top1_agreement=agreed / tokens,
    )


def log_probabilities(logits_SV: Floats) -> NDArray[np.float64]:
    """Log softmax in float64."""
    shifted = logits_SV.astype(np.float64) - logits_SV.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def chosen_losses(logits_SV: Floats, chosen_S: NDArray[np.int32]) -> NDArray[np.float64]:
    """Minus the log probability of one token at each position, `(S,)` in nats."""
    return -np.take_along_axis(log_probabilities(logits_SV), chosen_S[:, None].astype(np.int64), 1)[:, 0]


def _whole(model: RowLogits, row: NDArray[np.int32]) -> Floats:
    """`(S, V)` logits of one row."""
    found = list(model([row]))
    assert sum(len(part) for _, _, part in found) == len(row), "every position has logits once"
    return np.concatenate([part for _, _, part in sorted(found, key=lambda item: item[1])])
