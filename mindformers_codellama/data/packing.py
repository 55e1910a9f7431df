"""Several samples in one row, kept apart by `segment_ids`, each with positions from 0.

The model attends within a segment only, and the first label of every sample is IGNORE, so no loss crosses from one
sample into the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from mindformers_codellama.data.encode import IGNORE
from mindformers_codellama.data.rows import PAD, Row, padded

OPEN_ROWS = 32
"""Rows that may still be filled; bounds memory and how far a sample moves from its place."""


class Piece(NamedTuple):
    """One segment to be."""

    ids: np.ndarray
    """int32 `(T,)`, T <= row length."""
    labels: np.ndarray
    """int32 `(T,)`."""


def split_document(ids: np.ndarray, row_length: int) -> Iterator[Piece]:
    """Pieces of at most `row_length` ids; each later piece repeats the last id of the one before, so no prediction is lost.

    Positions start from 0 in every piece: a piece is attended to on its own.
    """
    start = 0
    while start == 0 or start < len(ids) - 1:
        part = ids[start : start + row_length]
        labels = part.copy()
        labels[0] = IGNORE
        yield Piece(part, labels)
        start += row_length - 1


def pack(pieces: Iterable[Piece], row_length: int) -> Iterator[Row]:
    """Put each piece into the fullest open row it fits in; deterministic.

    Args:
        pieces: each at most `row_length` ids.
        row_length: ids per row.

    Yields:
        `input_ids`, `labels`, `segment_ids` (1, 2, ... per row; 0 is padding), `position_ids`, all int32 `(row_length,)`.
    """
    rows: list[list[Piece]] = []
    free: list[int] = []
    for piece in pieces:
        assert len(piece.ids) <= row_length, "pieces are cut before they are packed"
        fitting = [i for i, space in enumerate(free) if space >= len(piece.ids)]
        if fitting:
            best = min(fitting, key=lambda i: free[i])
            rows[best].append(piece)
            free[best] -= len(piece.ids)
        else:
            rows.append([piece])
            free.append(row_length - len(piece.ids))
        if len(rows) > OPEN_ROWS:
            fullest = min(range(len(free)), key=lambda i: free[i])
            del free[fullest]
            yield _packed_row(rows.pop(fullest), row_length)
    for row in rows:
        yield _packed_row(row, row_length)


def _packed_row(pieces: list[Piece], row_length: int) -> Row:
    lengths = [len(piece.ids) for piece in pieces]
    labels = [np.concatenate([[IGNORE], piece.labels[1:]]) for piece in pieces]
    return {
        "input_ids": padded(np.concatenate([piece.ids for piece in pieces]), row_length, PAD),
        "labels": padded(np.concatenate(labels), row_length, IGNORE),
        "segment_ids": padded(np.repeat(np.arange(1, len(pieces) + 1), lengths), row_length, 0),
        "position_ids": padded(np.concatenate([np.arange(length) for length in lengths]), row_length, 0),
    }
