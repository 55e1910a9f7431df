"""Any box of any tensor, compared with slicing the whole in numpy."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.checkpoint import boxes_io, tensors
from mindformers_codellama.checkpoint.boxes_io import BoxTensor, blocks, fill_box, part_of, read_box
from mindformers_codellama.checkpoint.tensors import CastTensor, ComputedTensor, FileTensor, Segment
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.boxes import Box, whole


def on_disk(folder: Path, values: np.ndarray, cuts: list[int]) -> FileTensor:
    """The array in several files, at odd offsets, cut anywhere."""
    raw = values.tobytes()
    bounds = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    segments = []
    for number, (a, b) in enumerate(zip(bounds, bounds[1:], strict=False)):
        path = folder / f"part{number % 2}_{number}"
        path.write_bytes(b"x" * 7 + raw[a:b] + b"y" * 5)
        segments.append(Segment(path, 7, b - a))
    return FileTensor(values.shape, str(values.dtype), tuple(segments))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], Box]:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=0, max_size=3)))
    starts = [draw(st.integers(0, size)) for size in shape]
    return shape, Box(tuple(starts), tuple(draw(st.integers(a, size)) for a, size in zip(starts, shape, strict=True)))


@settings(deadline=None, max_examples=200)
@given(boxes(), st.lists(st.integers(0, 5000), max_size=3), st.sampled_from([1, 16, 1 << 20]), st.sampled_from([0, 4096]))
def test_any_box_equals_the_slice_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[tuple[int, ...], Box], cuts: list[int], chunk: int, short: int
) -> None:
    shape, box = case
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tensor = on_disk(tmp_path_factory.mktemp("tensor"), np.asarray(values), cuts)
    wanted = values[box.slices]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes_io, "CHUNK_BYTES", chunk)
        patch.setattr(boxes_io, "SHORT_RUN", short)
        np.testing.assert_array_equal(read_box(tensor, box), wanted)
        as_bf16 = read_box(CastTensor(tensor, "bfloat16", "x"), box)
        part = BoxTensor(tensor, box)
        np.testing.assert_array_equal(part.read(), wanted)
        inner = Box(tuple(n // 2 for n in part.shape), part.shape)
        np.testing.assert_array_equal(read_box(part, inner), wanted[inner.slices])
        if box.size:
            np.testing.assert_array_equal(np.concatenate([piece.copy() for piece in part.chunks()]), wanted.reshape(-1))
    np.testing.assert_array_equal(as_bf16, wanted.astype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(read_box(ComputedTensor(shape, "float32", lambda: np.asarray(values)), box), wanted)


@pytest.mark.parametrize("columns", [slice(0, 3), slice(2, 6)])
def test_a_view_of_a_larger_array_is_filled(tmp_path: Path, columns: slice) -> None:
    values = np.arange(40, dtype=np.int64).reshape(5, 8)
    tensor = on_disk(tmp_path, values, [])
    room = np.full((9, 10), -1, np.int64)
    fill_box(tensor, Box((1, columns.start), (4, columns.stop)), room[2:5, 4 : 4 + columns.stop - columns.start])
    expected = np.full((9, 10), -1, np.int64)
    expected[2:5, 4 : 4 + columns.stop - columns.start] = values[1:4, columns]
    np.testing.assert_array_equal(room, expected)


def test_only_the_bytes_of_the_box_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((64, 4096), np.float32)
    tensor = on_disk(tmp_path, values, [])
    read = []
    original = boxes_io.os.preadv

    def counting(handle: int, views: list[memoryview], offset: int) -> int:
        read.append(views[0].nbytes)
        return int(original(handle, views, offset))

    monkeypatch.setattr(boxes_io.os, "preadv", counting)
    read_box(tensor, Box((8, 0), (16, 4096)))
    assert read == [8 * 4096 * 4]  # rows: one run
    read.clear()
    read_box(tensor, Box((0, 1024), (64, 2048)))
    assert sum(read) == 64 * 1024 * 4  # long columns: a run per row and nothing between


def test_blocks_cover_a_box_in_order_within_the_limit() -> None:
    box = Box((1, 2, 0), (6, 9, 5))
    values = np.arange(8 * 9 * 5).reshape(8, 9, 5)
    parts = list(blocks(box, 8, 100))
    assert all(part.size * 8 <= 100 for part in parts)
    np.testing.assert_array_equal(np.concatenate([values[part.slices].reshape(-1) for part in parts]), values[box.slices].reshape(-1))


def test_all_of_a_tensor_is_the_tensor(tmp_path: Path) -> None:
    tensor = on_disk(tmp_path, np.zeros((2, 2), np.float32), [])
    assert part_of(tensor, whole((2, 2))) is tensor
    assert tensors.tensor_bytes(part_of(tensor, Box((0, 0), (1, 2)))) == 8


def test_a_file_that_ends_early_is_named(tmp_path: Path) -> None:
    tensor = on_disk(tmp_path, np.zeros((4, 4), np.float32), [])
    path = tensor.segments[0].path
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=f"{path}.*ended while it was read"):
        read_box(tensor, Box((2, 0), (4, 4)))
