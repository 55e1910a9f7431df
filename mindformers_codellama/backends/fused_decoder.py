"""`FusedDecoder`: the `Decoder` of generation over the network kernel; one operator per forward pass.

Rows have lengths of their own and no padding, keys and values lie in pages that prompts with the same beginning share, and
nothing is compiled. Shape letters: B rows, T prompt positions, C positions of a chunk, X new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.backends.fused_network import PAGE_SIZE, FusedNetwork
from mindformers_codellama.backends.fused_rows import PagedRows
from mindformers_codellama.backends.packed_model import PackedModel
from mindformers_codellama.backends.prompts import check_prompts, rows_are_full
from mindformers_codellama.model.inputs import check_token_ids
from mindformers_codellama.model.llama import LlamaNetwork

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

LOGITS_CHUNK = 256
"""Positions whose logits are given together by `all_logits`."""


class FusedDecoder:
    """Remembers one batch, and the beginnings of earlier prompts; `prefill` begins a new batch.

    Args:
        weights: a whole float32 network, whose weights are read where they lie, or packed weights.

    Raises:
        EnvironmentFault: the kernel library cannot be used.
    """

    def __init__(self, weights: LlamaNetwork | PackedModel) -> None:
        self._network = FusedNetwork(weights)
        network = self._network
        self._rows = PagedRows(PAGE_SIZE, network.page_shape, network.pool_dtype, self.max_length)
        self.tokens_computed = 0
        """Tokens the network has read since the beginning; less than were given when beginnings were shared."""

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._network.config.vocab_size

    @property
    def max_length(self) -> int:
        """Positions available to one row, prompt and answer together: the model's `seq_length`."""
        return self._network.config.seq_length

    def prefill(self, tokens_BT: Int32, lengths_B: Int32) -> Float32:
        """Forget the batch, read prompts, give logits after each one's last token.

        A beginning that an earlier prompt or answer, or another row, has too is not read again, in whole pages.

        Args:
            tokens_BT: int32 `(B, T)`, right padded; the padding must be valid ids too.
            lengths_B: int32 `(B,)` in [1, T].

        Returns:
            float32 `(B, V)`.

        Raises:
            GenerationError: a prompt longer than `max_length`.
            TokenizerError: an id outside [0, V).
        """
        prompts = self._prompts(tokens_BT, lengths_B)
        if self._network.refresh():
            self._rows.give_up_computed()
        with self._whole_or_nothing():
            starts = self._rows.begin(prompts)
            pieces = [(row, start, prompts[row][start:]) for row, start in enumerate(starts)]
            ends = np.cumsum([len(new) for _, _, new in pieces])
            return self._forward(pieces, ends - 1)

    def step(self, tokens_B: Int32) -> Float32:
        """Append one token to every row; float32 `(B, V)` logits after it.

        A row that is full stays as it is; its logits are 0 and mean nothing.

        Raises:
            GenerationError: every row is full.
            TokenizerError: an id outside [0, V).
        """
        tokens_B = np.asarray(tokens_B, np.int32)
        rows = self._rows.rows
        assert tokens_B.shape == (len(rows),), "step takes one token for every row of prefill"
        open_rows = [index for index, row in enumerate(rows) if row.length < self.max_length]
        if not open_rows:
            raise rows_are_full(self.max_length)
        check_token_ids(tokens_B, self.vocab_size, where="next tokens")
        with self._whole_or_nothing():
            self._rows.append(tokens_B[open_rows].tolist(), open_rows)
            pieces = [(index, rows[index].length - 1, tokens_B[index : index + 1]) for index in open_rows]
            found = self._forward(pieces, np.arange(len(pieces)))
            self._rows.publish_full()
        if len(open_rows) == len(rows):
            return found
        logits_BV = np.zeros((len(rows), self.vocab_size), np.float32)
        logits_BV[open_rows] = found
        return logits_BV

    def reorder(self, rows_B: Int32) -> None:
        """Row i becomes a copy of what row `rows_B[i]` was."""
        order = [int(row) for row in rows_B]
        if order != list(range(len(self._rows.rows))):
            self._rows.reorder(order)

    def all_logits(self, tokens_BT: Int32, lengths_B: Int32) -> Iterator[tuple[int, int, Float32]]:
        """Logits of every position, for evaluation, row after row; forgets the batch.

        Args:
            tokens_BT: as for `prefill`.
            lengths_B: as for `prefill`.

        Yields:
            Row, first position and float32 `(C, V)`.

        Raises:
            GenerationError, TokenizerError: as `prefill`.
        """
        prompts = self._prompts(tokens_BT, lengths_B)
        if self._network.refresh():
            self._rows.give_up_computed()
        batch = self._rows.rows
        try:
            for index, tokens in enumerate(prompts):
                for start in range(0, len(tokens), LOGITS_CHUNK):
                    assert self._rows.rows is batch, "another batch began before all_logits was at its end"
                    if start == 0:
                        self._rows.begin([tokens], shares=False)
                        batch = self._rows.rows
                    new = tokens[start : start + LOGITS_CHUNK]
                    yield index, start, self._forward([(0, start, new)], np.arange(len(new)))
        finally:
            if self._rows.rows is batch:
                self._rows.begin([])

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """What fails or is interrupted inside leaves no batch and no known beginnings; the next `prefill` computes everything."""
        try:
            yield
        except BaseException:
            self._rows.abandon()
            raise

    def _prompts(self, tokens_BT: Int32, lengths_B: Int32) -> list[Int32]:
        """The checked rows without their padding."""
        tokens_BT, lengths_B = check_prompts(tokens_BT, lengths_B, max_length=self.max_length, vocab_size=self.vocab_size)
        return [row[:length] for row, length in zip(tokens_BT, lengths_B, strict=True)]

    def _forward(self, pieces: Sequence[tuple[int, int, Int32]], wanted: Int32) -> Float32:
        """Read pieces (row, first position, new tokens); `(W, V)` logits of the wanted of all new tokens."""
        tokens_3X = np.empty((3, sum(len(new) for _, _, new in pieces)), np.int32)
        end = 0
        for row, start, new in pieces:
            begin, end = end, end + len(new)
            tokens_3X[0, begin:end] = new
            tokens_3X[1, begin:end] = np.arange(start, start + len(new))
            tokens_3X[2, begin:end] = row
        wanted_W = np.ascontiguousarray(wanted, np.int32)
        logits_WV = self._network.forward(
            ms.Tensor.from_numpy(tokens_3X), ms.Tensor.from_numpy(wanted_W), self._rows.table_tensor, self._rows.pools
        )
        self.tokens_computed += tokens_3X.shape[1]
        return logits_WV
