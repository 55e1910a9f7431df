"""Samples and token streams to rows of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from mindformers_codellama.data.encode import IGNORE, Sample

Row = dict[str, np.ndarray]
"""Column name to int32 `(row_length,)`."""

PAD = 0
"""Id 0, `<unk>`: what MindFormers pads with and what the model's mask leaves out."""


def padded_row(sample: Sample, row_length: int) -> Row:
    """Row of one sample, `input_ids` padded with PAD and `labels` with IGNORE on the right."""
    return {"input_ids": padded(sample.ids, row_length, PAD), "labels": padded(sample.labels, row_length, IGNORE)}


def padded(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    """int32 `(length,)`: the values, then `fill`."""
    row = np.full(length, fill, np.int32)
    row[: len(values)] = values
    return row


class StreamCutter:
    """Cuts a stream of token arrays into rows without regard to their borders, as MindFormers cuts wiki text."""

    def __init__(self, row_length: int) -> None:
        self.row_length = row_length
        self.rest = np.zeros(0, np.int32)

    def cut(self, arrays: Iterable[np.ndarray]) -> Iterator[Row]:
        """Yield full rows; afterwards `rest` holds the ids that did not fill one, which MindFormers drops."""
        for array in arrays:
            self.rest = np.concatenate([self.rest, array])
            whole = len(self.rest) // self.row_length * self.row_length
            for start in range(0, whole, self.row_length):
                yield {"input_ids": self.rest[start : start + self.row_length].copy()}
            self.rest = self.rest[whole:]
