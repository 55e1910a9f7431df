"""Boxes: the part of a tensor that one rank holds, as a start and a stop per dim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangular part of a tensor; a scalar has no dims."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the part."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """To index an array of the whole tensor."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def common(self, other: Box) -> Box | None:
        """What both hold; None when they do not meet."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def inside(self, outer: Box) -> Box:
        """The same part, counted from the start of `outer`, which must hold it."""
        assert all(a <= b for a, b in zip(outer.start, self.start, strict=True)), (self, outer)
        assert all(a <= b for a, b in zip(self.stop, outer.stop, strict=True)), (self, outer)
        return Box(
            tuple(a - b for a, b in zip(self.start, outer.start, strict=True)),
            tuple(a - b for a, b in zip(self.stop, outer.start, strict=True)),
        )

    def part(self, dim: int, index: int, parts: int) -> Box:
        """Part `index` of `parts` equal ones along `dim`; `parts` must divide it."""
        size = self.stop[dim] - self.start[dim]
        assert size % parts == 0, (self, dim, parts)
        first = self.start[dim] + index * (size // parts)
        start, stop = list(self.start), list(self.stop)
        start[dim], stop[dim] = first, first + size // parts
        return Box(tuple(start), tuple(stop))


def whole(shape: Sequence[int]) -> Box:
    """All of a tensor."""
    return Box((0,) * len(shape), tuple(shape))
