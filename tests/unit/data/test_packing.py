"""Packed rows: nothing lost, nothing shared between samples."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.data.encode import IGNORE
from mindformers_codellama.data.packing import Piece, pack, split_document

ROW = 16


def pieces_of(lengths):
    numbers = iter(range(1, 10**6))
    for length in lengths:
        ids = np.asarray([next(numbers) for _ in range(length)], np.int32)
        yield Piece(ids, np.where(ids % 3 == 0, IGNORE, ids).astype(np.int32))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, ROW), max_size=120))
def test_every_sample_is_in_one_row_whole_with_its_own_segment_and_positions(lengths):
    pieces = list(pieces_of(lengths))
    found = {}
    for row in pack(pieces, ROW):
        assert all(values.shape == (ROW,) and values.dtype == np.int32 for values in row.values())
        segments = row["segment_ids"]
        padding = segments == 0
        assert not row["input_ids"][padding].any()
        assert (row["labels"][padding] == IGNORE).all()
        for segment in range(1, segments.max() + 1):
            where = np.flatnonzero(segments == segment)
            assert (np.diff(where) == 1).all()
            assert row["position_ids"][where].tolist() == list(range(len(where)))
            assert row["labels"][where[0]] == IGNORE, "the last id of a sample must not predict the first of the next"
            found[int(row["input_ids"][where[0]])] = (row["input_ids"][where].tolist(), row["labels"][where].tolist()[1:])
    assert found == {int(piece.ids[0]): (piece.ids.tolist(), piece.labels.tolist()[1:]) for piece in pieces}


def test_packing_is_the_same_every_time_and_fills_rows():
    lengths = np.random.default_rng(0).integers(1, ROW // 2, 400).tolist()
    first, second = (list(pack(pieces_of(lengths), ROW)) for _ in range(2))
    assert all((a[column] == b[column]).all() for a, b in zip(first, second, strict=True) for column in a)
    assert len(first) <= 1.05 * sum(lengths) / ROW + 1


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 100))
def test_a_long_document_loses_no_prediction(length):
    ids = np.arange(1, length + 1, dtype=np.int32)
    predicted = []
    for piece in split_document(ids, ROW):
        assert len(piece.ids) <= ROW
        predicted += [(int(a), int(b)) for a, b in zip(piece.ids, piece.labels[1:], strict=False)]
    assert predicted == [(i, i + 1) for i in range(1, length)]
