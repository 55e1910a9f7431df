"""A long text read in windows that a model has positions for, each token predicted once.

Shape letters: S positions of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.errors import ConfigError

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Window:
    """Tokens a model reads at once, and which of its predictions count."""

    key: str
    """Document and first position; the same for the same data, window and stride."""
    tokens: Ids
    """int32 `(S,)`."""
    labels: Ids
    """int32 `(S,)`: what follows each token."""
    counts: NDArray[np.bool_]
    """bool `(S,)`: predictions that count, at least one."""


def require_stride(window: int, stride: int, positions: int) -> None:
    """Refuse windows that cannot be.

    Args:
        window: tokens read at once.
        stride: tokens from the beginning of a window to that of the next.
        positions: most tokens the model reads.

    Raises:
        ConfigError: with the range.
    """
    if not 1 <= window <= positions:
        raise ConfigError("--window", f"got {window}, must be from 1 to {positions}, the positions of the model.")
    if not 1 <= stride <= window:
        raise ConfigError("--stride", f"got {stride}, must be from 1 to {window}, the window.")


def sliding_windows(name: str, ids: Sequence[int], *, window: int, stride: int) -> Iterator[Window]:
    """Windows over a document; every id but the first is predicted once, by the first window that reaches it.

    From the second window on a prediction sees at least `window - stride` tokens before the first one that counts.

    Args:
        name: of the document.
        ids: its tokens, the begin token first.
        window: tokens read at once, at least 1.
        stride: tokens from window to window, in [1, window].

    Source: huggingface.co/docs/transformers/perplexity; there a window's own first token is never predicted, so that with
    stride = window some tokens are left out. Here the label behind the last position of a window counts too.
    """
    all_ids = np.asarray(ids, np.int32)
    predicted = 0  # the last position whose token was predicted
    for start in range(0, max(len(all_ids) - 1, 0), stride):
        end = min(start + window, len(all_ids) - 1)
        counts = np.arange(start + 1, end + 1) > predicted
        yield Window(f"{name}:{start}", all_ids[start:end], all_ids[start + 1 : end + 1], counts)
        predicted = end
        if end == len(all_ids) - 1:
            break
