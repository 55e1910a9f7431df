"""A safetensors file made for memory mapping: every tensor begins at a multiple of 64 bytes, and any part can be written first.

The format allows no holes between tensors (huggingface/safetensors README, section "Format"), so that tensors of an odd size
are followed by a filler tensor (`fill.N`, uint8 zeros) and the header by spaces. Any reader of safetensors opens the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindformers_codellama.checkpoint.dtypes import SAFETENSORS, numpy_dtype
from mindformers_codellama.checkpoint.files import FileRecord, atomic_file
from mindformers_codellama.checkpoint.safetensors_format import read_safetensors
from mindformers_codellama.errors import CheckpointError

ALIGNMENT = 64
"""Bytes every tensor's offset in the file is a multiple of: a cache line, and the widest vector."""
FILLER = "fill."
"""Begins the names of filler tensors."""
_CODES = {name: code for code, name in SAFETENSORS.items()}
_HASH_BYTES = 4 << 20


@dataclass(frozen=True)
class Slot:
    """A tensor a file will hold."""

    dtype: str
    """Element type, as in `dtypes`."""
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize


class MappableFile:
    """A file being written; made by `write_mappable`.

    Args:
        descriptor: of the open file.
        places: first byte and size of every tensor.
    """

    def __init__(self, descriptor: int, places: Mapping[str, tuple[int, int]]) -> None:
        self._descriptor = descriptor
        self._places = places

    def put(self, name: str, start: int, values: np.ndarray) -> None:
        """Write the bytes of a contiguous array at byte `start` of a tensor; parts may come in any order."""
        first, size = self._places[name]
        view = values.reshape(-1).view(np.uint8).data
        assert 0 <= start <= size - view.nbytes, (name, start, view.nbytes, size)
        place = first + start
        while view:
            done = os.pwrite(self._descriptor, view, place)
            view, place = view[done:], place + done


@contextmanager
def write_mappable(path: Path, slots: Mapping[str, Slot], *, metadata: Mapping[str, str], force: bool = False) -> Iterator[MappableFile]:
    """Open a file whose tensors are then put in any order; it appears whole or not at all.

    Raises:
        CheckpointError: as `atomic_file`.
    """
    header, places, size = _header(slots, metadata)
    with atomic_file(path, force=force) as file:
        file.write(header)
        file.flush()
        os.truncate(file.fileno(), size)
        yield MappableFile(file.fileno(), places)


def mappable_bytes(slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> int:
    """Size of the file that `write_mappable` makes."""
    return _header(slots, metadata)[2]


def file_record(path: Path) -> FileRecord:
    """Name, size and sha256 of a finished file.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_HASH_BYTES):
                digest.update(piece)
            return FileRecord(path.name, file.tell(), digest.hexdigest())
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}.") from error


def map_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors of a file as views of one mapping, nothing read yet; and its metadata.

    Writing to a view changes this process's copy of the page, never the file.

    Raises:
        CheckpointError: not such a file, cut short, or a tensor that is not aligned.
    """
    found, metadata = read_safetensors(path)
    try:
        whole = _mapping(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(path, f"cannot be mapped: {error}.") from error
    views: dict[str, np.ndarray] = {}
    for name, tensor in found.items():
        if name.startswith(FILLER):
            continue
        (segment,) = tensor.segments
        if segment.offset % ALIGNMENT:
            problem = f"begins at byte {segment.offset}, which is no multiple of {ALIGNMENT}."
            raise CheckpointError(f"{path}: {name}", problem, fix="write the file again with `codellama quantize`.")
        raw = whole[segment.offset : segment.offset + segment.nbytes]
        views[name] = raw.view(np.ndarray).view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)
    return views, metadata


def forget_file(path: Path) -> None:
    """Let the system drop the pages of a finished file from its cache, where it can.

    Pages of a file that was written piece by piece are small, and stay so as long as they are cached; read anew through a
    mapping of `map_file` they are large, which makes reading weights up to 30 % faster (measured on Linux 6.18 with ext4).
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError), path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _mapping(path: Path) -> np.ndarray:
    """Bytes of a file, mapped privately, in large pages where the system has them for files."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty(0, np.uint8)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapped, np.uint8)


def _header(slots: Mapping[str, Slot], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Header bytes, place (from the begin of the file) and size of every tensor, size of the file."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets: dict[str, tuple[int, int]] = {}
    end = 0

    def add(name: str, slot: Slot) -> None:
        nonlocal end
        offsets[name] = (end, slot.nbytes)
        entries[name] = {"dtype": _CODES[slot.dtype], "shape": list(slot.shape), "data_offsets": [end, end + slot.nbytes]}
        end += slot.nbytes

    for name, slot in slots.items():
        add(name, slot)
        if end % ALIGNMENT:
            add(f"{FILLER}{len(offsets)}", Slot("uint8", (-end % ALIGNMENT,)))
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    start = 8 + len(text)
    places = {name: (start + first, size) for name, (first, size) in offsets.items()}
    return len(text).to_bytes(8, "little") + text, places, start + end
