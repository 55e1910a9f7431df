"""Where every tensor of a MindSpore `.ckpt` lies, found by walking over protobuf lengths.

The wire format is described in `ckpt_format`; no MindSpore and no protobuf package is needed.
"""

from __future__ import annotations

import binascii
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from mindformers_codellama.checkpoint.dtypes import MINDSPORE, numpy_dtype
from mindformers_codellama.checkpoint.tensors import CHUNK_BYTES, FileTensor, Segment
from mindformers_codellama.errors import CheckpointError

_CRC_TAIL = 17
"""`crc_num` and 10 digits of base 256."""
_VARINT, _BYTES = 0, 2
"""Wire types of protobuf that the format uses."""
_OUR_TEXT = "codellama_"
"""Entries of uint8 with this prefix are text of ours, stored so because MindSpore's tools stumble over entries of text."""


@dataclass(frozen=True)
class CkptContents:
    """What a .ckpt holds, in file order; nothing is read yet but the names."""

    tensors: dict[str, FileTensor]
    strings: dict[str, str]
    crc: bool = False
    """Whether the file ends with its checksum."""


def scan_ckpt(path: Path, *, check_crc: bool = False) -> CkptContents:
    """Find every tensor of a `.ckpt` by walking over the lengths; tensor bytes are skipped.

    Args:
        path: the file.
        check_crc: also read the file once and compare its checksum, when it has one.

    Raises:
        CheckpointError: unreadable, cut short, encrypted, not such a file, or a MapParameter inside.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            end = size - _CRC_TAIL if _has_crc(file, size) else size
            if check_crc and end < size:
                _compare_crc(file, end, path)
            contents = replace(_Scanner(path).scan(file, end), crc=end < size)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}.") from error
    if not contents.tensors and not contents.strings:
        raise CheckpointError(path, "is empty: no parameter in it.")
    return contents


def _has_crc(file: BinaryIO, size: int) -> bool:
    if size < _CRC_TAIL:
        return False
    file.seek(size - _CRC_TAIL)
    found = file.read(7) == b"crc_num"
    file.seek(0)
    return found


def _compare_crc(file: BinaryIO, end: int, path: Path) -> None:
    found, left = 0, end
    while left:
        data = file.read(min(left, CHUNK_BYTES))
        found, left = binascii.crc32(data, found), left - len(data)
    file.seek(end + 7)
    if int.from_bytes(file.read(10), "big") != found:
        raise CheckpointError(path, "does not match its checksum; it is damaged.")
    file.seek(0)


def _decode(file: BinaryIO, part: _Part) -> str:
    file.seek(part.offset)
    return file.read(part.nbytes).decode(errors="replace")


@dataclass
class _Part:
    """One Value while it is parsed."""

    tag: str = ""
    dims: tuple[int, ...] = ()
    tensor_type: str = ""
    offset: int = 0
    nbytes: int = -1


class _Scanner:
    """Walks one file. Every length is checked against what encloses it before it is believed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = ""

    def scan(self, file: BinaryIO, end: int) -> CkptContents:
        """What the file holds up to byte `end`; parts of one tensor, which lie behind each other, are put together."""
        contents = CkptContents({}, {})
        parts: list[_Part] = []
        while file.tell() < end:
            part = self._value(file, end)
            if parts and parts[-1].tag != part.tag:
                self._finish(parts, contents, file)
                parts = []
            parts.append(part)
            self._at = part.tag
        if parts:
            self._finish(parts, contents, file)
        return contents

    def _finish(self, parts: list[_Part], contents: CkptContents, file: BinaryIO) -> None:
        """Join the Values of one tag into a tensor or a text."""
        last = parts[-1]
        total = sum(part.nbytes for part in parts)
        if last.tag in contents.tensors or last.tag in contents.strings:
            raise CheckpointError(f"{self._path}: {last.tag}", "is stored twice.")
        if last.tensor_type == "str":
            here = file.tell()
            file.seek(last.offset)
            contents.strings[last.tag] = file.read(last.nbytes).decode("utf-32-le", errors="replace").rstrip("\0")
            file.seek(here)
            return
        if last.tensor_type == "UInt8" and last.tag.startswith(_OUR_TEXT):
            here = file.tell()
            contents.strings[last.tag] = "".join(_decode(file, part) for part in parts)
            file.seek(here)
            return
        if last.tensor_type not in MINDSPORE:
            fix = "save it with a standard type." if last.tensor_type else ""
            raise CheckpointError(f"{self._path}: {last.tag}", f"has the unsupported type {last.tensor_type!r}.", fix=fix)
        dtype = MINDSPORE[last.tensor_type]
        size = numpy_dtype(dtype).itemsize
        # Old MindSpore wrote dims [0] for a scalar, and its loader still reads [0] as a scalar.
        dims = () if last.dims == (0,) and total else last.dims
        if math.prod(dims) * size != total:
            problem = f"shape {list(dims)} of {dtype} takes {math.prod(dims) * size} bytes, the file holds {total}."
            raise CheckpointError(f"{self._path}: {last.tag}", problem)
        segments = tuple(Segment(self._path, part.offset, part.nbytes) for part in parts)
        contents.tensors[last.tag] = FileTensor(dims, dtype, segments)

    def _value(self, file: BinaryIO, end: int) -> _Part:
        if self._key(file, end) != (1, _BYTES):
            raise self._foreign()
        stop = self._length(file, end)
        part = _Part()
        while file.tell() < stop:
            field, wire = self._key(file, stop)
            if (field, wire) == (1, _BYTES):
                part.tag = self._text(file, stop)
            elif (field, wire) == (2, _BYTES):
                self._tensor(file, self._length(file, stop), part)
            elif (field, wire) == (3, _BYTES):
                raise CheckpointError(f"{self._path}: {part.tag}", "is a MapParameter, which a language model does not have.")
            else:
                raise self._foreign()
        if part.nbytes < 0 or not part.tag:
            raise self._foreign()
        return part

    def _tensor(self, file: BinaryIO, stop: int, part: _Part) -> None:
        dims: list[int] = []
        while file.tell() < stop:
            field, wire = self._key(file, stop)
            if (field, wire) == (1, _VARINT):
                dims.append(self._number(file, stop))
            elif (field, wire) == (1, _BYTES):
                packed = self._length(file, stop)
                while file.tell() < packed:
                    dims.append(self._number(file, packed))
            elif (field, wire) == (2, _BYTES):
                part.tensor_type = self._text(file, stop)
            elif (field, wire) == (3, _BYTES):
                after = self._length(file, stop)
                part.offset, part.nbytes = file.tell(), after - file.tell()
                file.seek(after)
            else:
                raise self._foreign()
        part.dims = tuple(dims)

    def _key(self, file: BinaryIO, stop: int) -> tuple[int, int]:
        number = self._number(file, stop)
        return number >> 3, number & 7

    def _number(self, file: BinaryIO, stop: int) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = file.read(1)
            if not byte or file.tell() > stop:
                raise self._cut()
            number |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return number
        raise self._foreign()

    def _length(self, file: BinaryIO, stop: int) -> int:
        """Where the field that starts here ends."""
        after = self._number(file, stop) + file.tell()
        if after > stop:
            raise self._cut()
        return after

    def _text(self, file: BinaryIO, stop: int) -> str:
        after = self._length(file, stop)
        try:
            return file.read(after - file.tell()).decode()
        except UnicodeDecodeError:
            raise self._foreign() from None

    def _cut(self) -> CheckpointError:
        if not self._at:
            return self._foreign()
        return CheckpointError(self._path, f"is cut short after {self._at}.", fix="copy or save it again.")

    def _foreign(self) -> CheckpointError:
        fix = "if it was saved with enc_key, decrypt it first: mindspore.load_checkpoint(dec_key=...) and save_checkpoint."
        return CheckpointError(self._path, "is not a MindSpore .ckpt, or it is damaged or encrypted.", fix=fix)
