"""`FusedDecoder`: the `Decoder` of generation over the network kernel; one operator per forward pass.

Shape letters: B rows, T prompt positions, C positions of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.backends.packed_model import PackedModel
from mindformers_codellama.model.llama import LlamaNetwork

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


class FusedDecoder:
    """Remembers one batch, and the beginnings of earlier prompts; `prefill` begins a new batch.

    Args:
        weights: a whole float32 network, whose weights are read where they lie, or packed weights.

    Raises:
        EnvironmentFault: the kernel library cannot be used.
    """

    def __init__(self, weights: LlamaNetwork | PackedModel) -> None:
        self._weights = weights
        self.tokens_computed = 0
        """Tokens read by the network since the beginning; less than were given when beginnings were shared."""

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._weights.config.vocab_size

    @property
    def max_length(self) -> int:
        """Positions available to one row, prompt and answer together: the model's `seq_length`."""
        return self._weights.config.seq_length

    def prefill(self, tokens_BT: Int32, lengths_B: Int32) -> Float32:
        """Forget the batch, read prompts, give float32 `(B, V)` logits after each one's last token."""
        raise NotImplementedError

    def step(self, tokens_B: Int32) -> Float32:
        """Append one token to every row; float32 `(B, V)` logits after it."""
        raise NotImplementedError

    def reorder(self, rows_B: Int32) -> None:
        """Row i becomes a copy of what row `rows_B[i]` was."""
        raise NotImplementedError

    def all_logits(self, tokens_BT: Int32, lengths_B: Int32) -> Iterator[tuple[int, int, Float32]]:
        """Logits of every position, for evaluation: (row, first position, float32 `(C, V)`) chunk by chunk."""
        raise NotImplementedError
