"""Writers of protobuf's wire format, for the few fields of `tokenizer.model` we touch.

Source: protobuf.dev/programming-guides/encoding. Saves a dependency on a protobuf package that must match mindspore's.
"""

from __future__ import annotations


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
