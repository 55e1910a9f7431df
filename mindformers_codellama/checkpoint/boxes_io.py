"""Read any box of a tensor on disk without reading the rest.

Rows of a file are one run of bytes and are read as such; columns are one run per row, each read by itself when it is long
and cut out of whole rows when it is short. Nothing larger than the box and one block is held in memory.
"""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from mindformers_codellama.checkpoint.dtypes import cast, numpy_dtype
from mindformers_codellama.checkpoint.tensors import CHUNK_BYTES, CastTensor, FileTensor, LazyTensor, array_chunks
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.boxes import Box, whole

SHORT_RUN = 4096
"""Bytes below which a run is cut out of its whole row: one read of a page costs as much."""


@runtime_checkable
class BoxReadable(Protocol):
    """A lazily read tensor that knows how to give out a part of itself."""

    def fill_box(self, box: Box, out: np.ndarray) -> None:
        """Write the box into `out`, which has its shape and the tensor's type."""


def read_box(tensor: LazyTensor, box: Box) -> np.ndarray:
    """A part of a tensor, in the tensor's type, owned by the caller.

    Args:
        tensor: of a file, cast, joined from shards, or any other; of the last kind the whole is made first.
        box: the part, within the tensor; `whole(tensor.shape)` for all of it.

    Raises:
        CheckpointError: the file cannot be read or is cut short; a cast that does not fit.
    """
    out = np.empty(box.shape, numpy_dtype(tensor.dtype))
    fill_box(tensor, box, out)
    return out


def fill_box(tensor: LazyTensor, box: Box, out: np.ndarray) -> None:
    """Write a part of a tensor into an array of the box's shape and the tensor's type, which may be a view of a larger one.

    Raises:
        CheckpointError: as `read_box`.
    """
    assert len(box.stop) == len(tensor.shape), (box, tensor.shape)
    assert all(0 <= a <= b <= size for a, b, size in zip(*box, tensor.shape, strict=True)), (box, tensor.shape)
    assert (out.shape, out.dtype) == (box.shape, numpy_dtype(tensor.dtype)), (out.shape, out.dtype, box, tensor.dtype)
    if not box.size:
        return
    if isinstance(tensor, FileTensor):
        with _Bytes(tensor) as source:
            _fill_from_file(source, tensor, box, out)
    elif isinstance(tensor, CastTensor):
        for block in blocks(box, numpy_dtype(tensor.source.dtype).itemsize):
            out[block.inside(box).slices] = cast(read_box(tensor.source, block), tensor.dtype, tensor.where)
    elif isinstance(tensor, BoxReadable):
        tensor.fill_box(box, out)
    else:
        out[...] = tensor.read()[box.slices]


def blocks(box: Box, itemsize: int, limit: int | None = None) -> Iterator[Box]:
    """The box in parts of at most `limit` bytes (`CHUNK_BYTES`), each contiguous in it, in C order."""
    limit = CHUNK_BYTES if limit is None else limit
    if box.size <= 1 or box.size * itemsize <= limit:
        yield box
        return
    dim = next(i for i, size in enumerate(box.shape) if size > 1)
    step = max(1, limit // (math.prod(box.shape[dim + 1 :]) * itemsize))
    for first in range(box.start[dim], box.stop[dim], step):
        last = min(first + step, box.stop[dim])
        start, stop = list(box.start), list(box.stop)
        start[dim], stop[dim] = first, last
        yield from blocks(Box(tuple(start), tuple(stop)), itemsize, limit)


@dataclass(frozen=True)
class BoxTensor:
    """A part of another tensor as a tensor of its own."""

    source: LazyTensor
    box: Box

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the part."""
        return self.box.shape

    @property
    def dtype(self) -> str:
        """Element type of the source."""
        return self.source.dtype

    def read(self) -> np.ndarray:
        """The part."""
        return read_box(self.source, self.box)

    def chunks(self) -> Iterator[np.ndarray]:
        """Flat pieces in C order; a source that has to be made whole is made once."""
        if not in_pieces(self.source):
            yield from array_chunks(self.read())
            return
        for block in blocks(self.box, numpy_dtype(self.dtype).itemsize):
            yield read_box(self.source, block).reshape(-1)

    def fill_box(self, box: Box, out: np.ndarray) -> None:
        """A part of the part."""
        start = tuple(a + b for a, b in zip(box.start, self.box.start, strict=True))
        stop = tuple(a + b for a, b in zip(box.stop, self.box.start, strict=True))
        fill_box(self.source, Box(start, stop), out)


def part_of(tensor: LazyTensor, box: Box) -> LazyTensor:
    """The part of a tensor that a box names; the tensor itself when that is all of it."""
    return tensor if box == whole(tensor.shape) else BoxTensor(tensor, box)


def in_pieces(tensor: LazyTensor) -> bool:
    """Whether a part can be had without the whole."""
    if isinstance(tensor, (CastTensor, BoxTensor)):
        return in_pieces(tensor.source)
    return isinstance(tensor, (FileTensor, BoxReadable))


def _fill_from_file(source: _Bytes, tensor: FileTensor, box: Box, out: np.ndarray) -> None:
    size = out.dtype.itemsize
    depth = _depth(tensor.shape, box)
    run = math.prod(box.shape[depth:]) * size
    row = math.prod(tensor.shape[1:]) * size
    if depth and run < SHORT_RUN and row <= CHUNK_BYTES:
        wide = Box((box.start[0], *(0 for _ in box.start[1:])), (box.stop[0], *tensor.shape[1:]))
        for block in blocks(wide, size):
            rows = np.empty(block.shape, out.dtype)
            source.read(_offset(tensor.shape, block.start) * size, rows)
            first = block.start[0] - box.start[0]
            columns = (slice(None), *box.slices[1:])
            out[first : first + len(rows)] = rows[columns]
        return
    for index in np.ndindex(*box.shape[:depth]):
        at = tuple(a + i for a, i in zip(box.start, index, strict=False))
        line = Box((*at, *box.start[depth:]), (*(a + 1 for a in at), *box.stop[depth:]))
        pieces = [line] if _view(out, line.inside(box)).flags.c_contiguous else blocks(line, size)
        for block in pieces:
            target = _view(out, block.inside(box))
            values = target if target.flags.c_contiguous else np.empty(block.shape, out.dtype)
            source.read(_offset(tensor.shape, block.start) * size, values)
            if values is not target:
                target[...] = values


def _view(values: np.ndarray, box: Box) -> np.ndarray:
    """A part of an array that writes through, also of a scalar."""
    return values[box.slices] if box.stop else values[...]


def _depth(shape: tuple[int, ...], box: Box) -> int:
    """Dims to step through so that the rest of the box is one run of the file."""
    depth = max(len(shape) - 1, 0)
    while depth and box.shape[depth] == shape[depth]:
        depth -= 1
    return depth


def _offset(shape: tuple[int, ...], at: tuple[int, ...]) -> int:
    """Place of an element in C order."""
    return sum(index * math.prod(shape[dim + 1 :]) for dim, index in enumerate(at))


class _Bytes:
    """The bytes of a tensor as if they were one run; every file is opened once."""

    def __init__(self, tensor: FileTensor) -> None:
        self._segments = tensor.segments
        self._ends: list[int] = []
        for segment in tensor.segments:
            self._ends.append(segment.nbytes + (self._ends[-1] if self._ends else 0))
        self._open: dict[Path, int] = {}
        self._files = ExitStack()

    def __enter__(self) -> _Bytes:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def read(self, offset: int, out: np.ndarray) -> None:
        """Fill a contiguous array with the bytes from `offset` on."""
        view = out.reshape(-1).view(np.uint8).data
        while view.nbytes:
            at = bisect.bisect_right(self._ends, offset)
            segment = self._segments[at]
            inside = offset - (self._ends[at] - segment.nbytes)
            take = min(view.nbytes, segment.nbytes - inside)
            self._read(segment.path, segment.offset + inside, view[:take])
            offset, view = offset + take, view[take:]

    def _read(self, path: Path, offset: int, view: memoryview) -> None:
        try:
            if path not in self._open:
                self._open[path] = self._files.enter_context(path.open("rb", buffering=0)).fileno()
            while view.nbytes:
                got = os.preadv(self._open[path], [view], offset)
                if not got:
                    raise CheckpointError(path, "ended while it was read; it was cut short or is being rewritten.")
                offset, view = offset + got, view[got:]
        except OSError as error:
            raise CheckpointError(path, f"cannot be read: {error.strerror or error}.") from error
