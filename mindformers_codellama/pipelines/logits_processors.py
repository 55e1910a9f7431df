"""Functions of a caller that change the logits before a token is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation.protocol import Decoder, Floats, Int32

LogitsProcessor = Callable[[Any, Any], Any]
"""`(input_ids int32 (1, T), logits float (1, V))` to logits of the same shape, as transformers and MindFormers call it."""


class ProcessedDecoder:
    """A decoder whose logits have passed through every processor, row by row, each row at its own length.

    Args:
        decoder: the model.
        processors: called in this order.
    """

    def __init__(self, decoder: Decoder, processors: Sequence[LogitsProcessor]) -> None:
        self._decoder = decoder
        self._processors = tuple(processors)
        self._rows: list[list[int]] = []

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._decoder.vocab_size

    @property
    def max_length(self) -> int:
        """Positions available to one row."""
        return self._decoder.max_length

    def prefill(self, tokens_BT: Int32, lengths_B: Int32) -> Floats:
        """As `Decoder.prefill`."""
        self._rows = [[int(token) for token in row[:length]] for row, length in zip(tokens_BT, lengths_B, strict=True)]
        return self._process(self._decoder.prefill(tokens_BT, lengths_B))

    def step(self, tokens_B: Int32) -> Floats:
        """As `Decoder.step`."""
        for row, token in zip(self._rows, tokens_B, strict=True):
            row.append(int(token))
        return self._process(self._decoder.step(tokens_B))

    def reorder(self, rows_B: Int32) -> None:
        """As `Decoder.reorder`."""
        self._rows = [list(self._rows[place]) for place in rows_B]
        self._decoder.reorder(rows_B)

    def _process(self, logits_BV: Floats) -> Floats:
        processed_BV = np.array(logits_BV)
        for number, row in enumerate(self._rows):
            logits_1V: Any = processed_BV[number : number + 1].copy()
            ids_1T = np.asarray([row], np.int32)
            for processor in self._processors:
                logits_1V = np.asarray(processor(ids_1T, logits_1V))
                if logits_1V.shape != (1, self.vocab_size):
                    problem = f"gave logits of shape {logits_1V.shape}, must be (1, {self.vocab_size})."
                    raise GenerationError("logits_processor", problem, fix="return the logits it was given, changed.")
            processed_BV[number] = logits_1V[0]
        return processed_BV
