"""Values between the program and its checker: length-prefixed JSON that can hold data and nothing else.

An object that is no plain data does not cross: an `__eq__` of the program never meets a test.
Numbers keep their value, sets, tuples, dictionaries, ranges and iterators their kind; subclasses become the plain kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any, BinaryIO

LARGEST_FRAME = 1 << 25
"""Bytes; a longer answer is refused unread."""
LARGEST_JSON_INT = 1 << 62
LONGEST_ITERATOR = 1 << 20


class FrameError(Exception):
    """The other side has gone, or what it sent is no frame."""


def send(pipe: BinaryIO, message: Any) -> None:
    """Write one message.

    Raises:
        FrameError: the other side has gone, or the message is too long.
    """
    data = json.dumps(message).encode()
    if len(data) > LARGEST_FRAME:
        raise FrameError("got a value that is too large")
    try:
        pipe.write(len(data).to_bytes(4, "big") + data)
        pipe.flush()
    except OSError as error:
        raise FrameError("has gone") from error


def receive(pipe: BinaryIO) -> Any:
    """Read one message; None at the end.

    Raises:
        FrameError: half a message, or none that JSON knows.
    """
    head = pipe.read(4)
    if not head:
        return None
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > LARGEST_FRAME:
        raise FrameError("sent no message")
    data = pipe.read(size)
    if len(data) < size:
        raise FrameError("ended within a message")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FrameError("sent no message") from error


def pack(value: Any) -> Any:
    """A value as JSON; what is no plain data becomes a mark that `unpack` refuses."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "ndim", 1):
        return pack(value.item())
    if isinstance(value, int):
        number = int(value)
        return number if abs(number) < LARGEST_JSON_INT else ["int", hex(number)]
    if isinstance(value, float):
        return float(value)
    for kind, name, take in KINDS:
        if isinstance(value, kind):
            return [name, take(value)]
    return ["opaque", type(value).__name__]


def _pairs(value: Mapping[Any, Any]) -> list[Any]:
    return [[pack(key), pack(one)] for key, one in value.items()]


def _many(value: Any) -> list[Any]:
    return [pack(one) for one in value]


KINDS: tuple[tuple[Any, str, Any], ...] = (
    (list, "list", _many),
    (tuple, "tuple", _many),
    (Mapping, "dict", _pairs),
    (frozenset, "frozenset", _many),
    (Set, "set", _many),
    (range, "range", lambda value: [pack(value.start), pack(value.stop), pack(value.step)]),
    (bytearray, "bytearray", lambda value: bytes(value).hex()),
    (bytes, "bytes", lambda value: bytes(value).hex()),
    (complex, "complex", lambda value: [value.real, value.imag]),
    (Fraction, "fraction", lambda value: [pack(value.numerator), pack(value.denominator)]),
    (Decimal, "decimal", str),
    (Iterator, "iterator", lambda value: _many(islice(value, LONGEST_ITERATOR))),
)
"""Kinds in the order they are tried."""

MAKERS: dict[str, Any] = {
    "int": lambda data: int(data, 16),
    "list": lambda data: [unpack(one) for one in data],
    "tuple": lambda data: tuple(unpack(one) for one in data),
    "dict": lambda data: {unpack(key): unpack(one) for key, one in data},
    "frozenset": lambda data: frozenset(unpack(one) for one in data),
    "set": lambda data: {unpack(one) for one in data},
    "range": lambda data: range(*(unpack(one) for one in data)),
    "bytearray": bytearray.fromhex,
    "bytes": bytes.fromhex,
    "complex": lambda data: complex(*data),
    "fraction": lambda data: Fraction(*(unpack(one) for one in data)),
    "decimal": Decimal,
    "iterator": lambda data: iter([unpack(one) for one in data]),
}


def unpack(data: Any) -> Any:
    """The value of `pack`'s JSON, whoever wrote it.

    Raises:
        FrameError: it is none.
    """
    if not isinstance(data, (list, dict)):
        return data
    try:
        name, content = data
        if name == "opaque":
            raise FrameError(f"is of type {content!s:.50}, which is no plain data")
        return MAKERS[name](content)
    except FrameError:
        raise
    except Exception as error:
        raise FrameError("is no value") from error
