"""Write and walk protobuf's wire format, for the few fields of `tokenizer.model` we touch.

Source: protobuf.dev/programming-guides/encoding. Saves a dependency on a protobuf package that must match mindspore's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


def varint(value: int) -> bytes:
    """Unsigned base-128, low group first."""
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_varint(number: int, value: int) -> bytes:
    """Field `number` holding an unsigned integer, bool or enum (wire type 0)."""
    return varint(number << 3) + varint(value)


def field_bytes(number: int, body: bytes) -> bytes:
    """Field `number` holding a string, bytes or embedded message (wire type 2)."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The value at `at` and the position behind it; `ValueError` when the message ends inside it or it is over 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("cut inside a number")


class Field(NamedTuple):
    """Where one field of a message lies."""

    number: int
    start: int
    end: int


def fields(message: bytes) -> Iterator[Field]:
    """The fields at the top of `message` in order; bodies are skipped, not read.

    Raises:
        ValueError: not a protobuf message, or one cut short.
    """
    at = 0
    while at < len(message):
        start = at
        tag, at = read_varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            _, at = read_varint(message, at)
        elif wire_type == 2:
            length, at = read_varint(message, at)
            at += length
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"no wire type {wire_type} at byte {at}")
        if at > len(message) or number == 0:
            raise ValueError(f"field {number} ends at byte {at} of {len(message)}")
        yield Field(number, start, at)
