"""What generation asks of a model (`Decoder`) and of a listener (`Streamer`).

Shape letters: B rows, T prompt positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


@runtime_checkable
class Decoder(Protocol):
    """A language model that remembers what it has read. One batch at a time; numpy in, numpy out.

    Every row has its own position: row b has read `lengths_B[b]` prompt tokens plus one token per `step`.
    A finished row is still stepped, with a padding token, while its batch mates go on. It may so pass
    `max_length`; its logits are then ignored and the decoder must neither fail nor disturb other rows.
    """

    @property
    def vocab_size(self) -> int:
        """V; token ids are in [0, V)."""
        ...

    @property
    def max_length(self) -> int:
        """Positions available to one row, prompt and answer together."""
        ...

    def prefill(self, tokens_BT: Int32, lengths_B: Int32) -> Floats:
        """Forget everything, read a batch of prompts, and give the logits after the last token of each.

        Args:
            tokens_BT: int32 `(B, T)`, right padded.
            lengths_B: int32 `(B,)`, real tokens of each row, in [1, T].

        Returns:
            float `(B, V)`.
        """
        ...

    def step(self, tokens_B: Int32) -> Floats:
        """Append one token to every row; float `(B, V)` logits after it."""
        ...

    def reorder(self, rows_B: Int32) -> None:
        """Row i becomes a copy of what row `rows_B[i]` was (beam search)."""
        ...


class Streamer(Protocol):
    """Listener of token ids, as transformers and MindFormers define it.

    With one row, `put` gets int32 `(n,)` arrays: first the prompt, then new tokens. With several rows it gets
    a list of one (maybe empty) list per row. `end` follows the last token.
    """

    def put(self, value: Any) -> None:
        """Take the prompt, or tokens that will not be taken back."""
        ...

    def end(self) -> None:
        """Generation is over."""
        ...


class TokenDecoder(Protocol):
    """The part of a tokenizer that generation needs."""

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        ...


class StopRule(Protocol):
    """Ends an answer by its text. One object belongs to one answer and may remember what it has read."""

    def end(self, text: str, start: int) -> int:
        """Where the answer ends, -1 while it goes on.

        Args:
            text: all of the answer so far; each call has the text of the last one and more.
            start: characters that were given out; the end is not before them.
        """
        ...

    def held_back(self, text: str) -> int:
        """Characters at the end of `text` that a later end may still cut off."""
        ...


OnText = Callable[[int, str], object]
"""Called with (row, newly certain text); whole characters, never any part of a stop string."""
