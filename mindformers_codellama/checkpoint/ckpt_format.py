"""MindSpore `.ckpt` files, written (and read whole) without MindSpore and without protobuf.

A file is one protobuf message `Checkpoint { repeated Value value = 1 }`, where
`Value { string tag = 1; TensorProto tensor = 2; MapTensorProto maptensor = 3 }` and
`TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }`.
MindSpore writes one `Value` after another; a tensor above `SLICE_BYTES` becomes several Values of the same
tag, each with the dims of the whole and a run of its bytes. An optional tail is `crc_num` and the CRC-32 of
everything before it as 10 big-endian bytes. Source: mindspore 2.10 train/serialization.py, checkpoint.proto.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.checkpoint.dtypes import MINDSPORE, dtype_name
from mindformers_codellama.checkpoint.files import FileRecord, Output, atomic_file
from mindformers_codellama.checkpoint.tensors import LazyTensor, array_chunks, tensor_bytes
from mindformers_codellama.errors import CheckpointError

SLICE_BYTES = 512 << 20
"""Largest run of bytes in one Value; MindSpore's `SLICE_SIZE`."""
_TYPES = {name: code for code, name in MINDSPORE.items()}

Value = np.ndarray | LazyTensor | str | bool | int | float


def write_ckpt(
    path: str | Path,
    items: Iterable[tuple[str, Value]],
    *,
    force: bool = False,
    crc: bool = False,
    hashed: bool = False,
    on_bytes: Callable[[int], object] | None = None,
) -> FileRecord:
    """Write a `.ckpt` that `mindspore.load_checkpoint` reads; it appears whole or not at all.

    Args:
        path: the file; its directory is made when absent.
        items: `(name, value)` in the order to write. Arrays (numpy, or lazily read tensors, streamed), text, or
            Python numbers, which take the types `mindspore.save_checkpoint` gives them (int64, float32, bool).
        force: replace an existing file.
        crc: append the checksum that `load_checkpoint(crc_check=True)` verifies.
        hashed: compute the sha256 of the file on the way.
        on_bytes: called with the number of tensor bytes just written.

    Raises:
        CheckpointError: a name given twice, an element type that cannot be stored, `path` taken, disk full.
    """
    path = Path(path)
    seen: set[str] = set()
    with atomic_file(path, force=force) as file:
        output = Output(file, hashed=hashed, on_bytes=on_bytes)
        checksum = 0
        for name, value in items:
            if name in seen:
                raise CheckpointError(path, f"the tensor {name} was given twice.")
            seen.add(name)
            for data in _encode(output, name, value):
                checksum = binascii.crc32(data, checksum) if crc else 0
        if crc:
            output.write(b"crc_num" + checksum.to_bytes(10, "big"))
    return output.record(path.name)


def read_ckpt(path: str | Path) -> dict[str, np.ndarray | str]:
    """Everything in a `.ckpt`, in memory.

    Raises:
        CheckpointError: as `scan_ckpt`.
    """
    contents = scan_ckpt(Path(path))
    return {name: tensor.read() for name, tensor in contents.tensors.items()} | contents.strings


def _encode(output: Output, name: str, value: Value) -> Iterator[bytes | memoryview]:
    """Write one item; gives back every run of bytes written, for the checksum."""
    if isinstance(value, str):
        text = np.array(value)
        head = _value_head(name, (0,), "str", text.nbytes)
        output.write(head + text.tobytes())
        yield head + text.tobytes()
        return
    if isinstance(value, (bool, int, float)):
        value = np.asarray(value, dtype=np.float32 if isinstance(value, float) else None)
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        shape, dtype, total = array.shape, dtype_name(array.dtype), array.nbytes
        pieces: Iterator[np.ndarray] = array_chunks(np.ascontiguousarray(array))
    else:
        shape, dtype, total = value.shape, value.dtype, tensor_bytes(value)
        pieces = value.chunks()
    if total <= SLICE_BYTES:
        head = _value_head(name, shape, _TYPES[dtype], total)
        output.write(head)
        yield head
        for piece in pieces:
            total -= piece.nbytes
            yield output.write_array(piece)
        assert not total, f"{name} gave another number of bytes than its shape says"
        return
    yield from _encode_slices(output, (name, shape, dtype), total, pieces)


def _encode_slices(
    output: Output, head: tuple[str, tuple[int, ...], str], left: int, pieces: Iterator[np.ndarray]
) -> Iterator[bytes | memoryview]:
    name, shape, dtype = head
    room = 0
    for piece in pieces:
        raw = piece.reshape(-1).view(np.uint8)
        while raw.size:
            if not room:
                room = min(SLICE_BYTES, left)
                start = _value_head(name, shape, _TYPES[dtype], room)
                output.write(start)
                yield start
            part, raw = raw[:room], raw[room:]
            room, left = room - part.size, left - part.size
            yield output.write_array(part)
    assert not left, f"{name} gave another number of bytes than its shape says"


def _value_head(name: str, shape: tuple[int, ...], tensor_type: str, content: int) -> bytes:
    """Everything of a Value up to the bytes of its content."""
    tensor = b"".join(b"\x08" + _varint(size) for size in shape)
    tensor += b"\x12" + _varint(len(tensor_type)) + tensor_type.encode() + b"\x1a" + _varint(content)
    tag = name.encode()
    value = b"\x0a" + _varint(len(tag)) + tag + b"\x12" + _varint(len(tensor) + content) + tensor
    return b"\x0a" + _varint(len(value) + content) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
