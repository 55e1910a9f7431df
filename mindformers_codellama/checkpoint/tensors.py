"""Tensors on disk, read in pieces so that memory does not grow with the checkpoint.

Files are read with plain `read` into one reused buffer, not mapped: pages of a mapped file
count as resident memory of the process, which would break the bound that docs/checkpoints.md states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mindformers_codellama.checkpoint.dtypes import cast, numpy_dtype
from mindformers_codellama.errors import CheckpointError

CHUNK_BYTES = 8 << 20
"""Bytes read at a time; a multiple of every element size."""


class LazyTensor(Protocol):
    """One tensor that can be read whole or piece by piece."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dims; `()` for a scalar."""

    @property
    def dtype(self) -> str:
        """Name of the element type, as in `dtypes`."""

    def read(self) -> np.ndarray:
        """The whole tensor, owned by the caller."""

    def chunks(self) -> Iterator[np.ndarray]:
        """Flat pieces in C order; each is valid only until the next is taken."""


def tensor_bytes(tensor: LazyTensor) -> int:
    """Size of a tensor's elements in bytes."""
    return math.prod(tensor.shape) * numpy_dtype(tensor.dtype).itemsize


@dataclass(frozen=True)
class Segment:
    """A run of bytes in a file."""

    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class FileTensor:
    """A C-contiguous tensor whose bytes are one or several runs of files, in order."""

    shape: tuple[int, ...]
    dtype: str
    segments: tuple[Segment, ...]

    def read(self) -> np.ndarray:
        """The whole tensor; one copy in memory."""
        out = np.empty(self.shape, numpy_dtype(self.dtype))
        raw = out.reshape(-1).view(np.uint8)
        done = 0
        for segment in self.segments:
            _read_into(segment, raw[done : done + segment.nbytes])
            done += segment.nbytes
        assert done == raw.nbytes, "segments do not cover the tensor"
        return out

    def chunks(self) -> Iterator[np.ndarray]:
        """Pieces of at most `CHUNK_BYTES` in one reused buffer."""
        dtype = numpy_dtype(self.dtype)
        left = sum(segment.nbytes for segment in self.segments)
        buffer = np.empty(min(CHUNK_BYTES, left), np.uint8)
        filled = 0
        for segment in self.segments:
            offset, end = segment.offset, segment.offset + segment.nbytes
            while offset < end:
                take = min(end - offset, buffer.nbytes - filled)
                _read_into(Segment(segment.path, offset, take), buffer[filled : filled + take])
                offset, filled, left = offset + take, filled + take, left - take
                if filled == buffer.nbytes or not left:
                    yield buffer[:filled].view(dtype)
                    filled = 0

    def rows(self, start: int, stop: int) -> FileTensor:
        """Rows `start:stop` of the first dim, without reading anything."""
        assert 0 <= start <= stop <= self.shape[0], (start, stop, self.shape)
        row = math.prod(self.shape[1:]) * numpy_dtype(self.dtype).itemsize
        skip, want = start * row, (stop - start) * row
        kept: list[Segment] = []
        for segment in self.segments:
            drop = min(skip, segment.nbytes)
            take = min(want, segment.nbytes - drop)
            if take:
                kept.append(Segment(segment.path, segment.offset + drop, take))
            skip, want = skip - drop, want - take
        return FileTensor((stop - start, *self.shape[1:]), self.dtype, tuple(kept))


@dataclass(frozen=True)
class ComputedTensor:
    """A tensor that has to be made whole before any of it can be given out."""

    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        """Make it."""
        made = np.ascontiguousarray(self.make()).reshape(self.shape)
        assert made.dtype == numpy_dtype(self.dtype), (made.dtype, self.dtype)
        return made

    def chunks(self) -> Iterator[np.ndarray]:
        """Make it, then give it out in pieces."""
        return array_chunks(self.read())


@dataclass(frozen=True)
class CastTensor:
    """Another tensor in another element type, cast piece by piece. `where` is its name in messages."""

    source: LazyTensor
    dtype: str
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the source."""
        return self.source.shape

    def read(self) -> np.ndarray:
        """The whole tensor, cast."""
        out = np.empty(self.shape, numpy_dtype(self.dtype))
        flat, done = out.reshape(-1), 0
        for piece in self.chunks():
            flat[done : done + piece.size] = piece
            done += piece.size
        return out

    def chunks(self) -> Iterator[np.ndarray]:
        """Cast pieces."""
        for piece in self.source.chunks():
            yield cast(piece, self.dtype, self.where)


def array_chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    """A contiguous array in flat pieces of at most `CHUNK_BYTES`."""
    flat = values.reshape(-1)
    step = CHUNK_BYTES // flat.itemsize
    for start in range(0, flat.size, step):
        yield flat[start : start + step]


def _read_into(segment: Segment, out: np.ndarray) -> None:
    """Fill `out` (uint8) with the bytes of `segment`."""
    view = out.data
    try:
        with segment.path.open("rb", buffering=0) as file:
            file.seek(segment.offset)
            while view:
                got = file.readinto(view)
                if not got:
                    raise CheckpointError(segment.path, "ended while it was read; it was cut short or is being rewritten.")
                view = view[got:]
    except OSError as error:
        raise CheckpointError(segment.path, f"cannot be read: {error.strerror or error}.") from error
