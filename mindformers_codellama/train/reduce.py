"""Gradients and updated rows brought together over ranks, many tensors in one buffer.

A collective costs some milliseconds whatever its size (docs/parallel.md), so tensors travel in a few buffers
(`gradient_aggregation_group`). Collectives of different axes stand in one chain of dependencies, so that all ranks
call them in one order. No gradient passes through anything here.

Tuples of one tensor per weight are made by `ops.HyperMap`, all at once: a loop that appends makes a new tuple each time, and
compiling then takes memory and time with the square of the number of weights (1.2 GB for 150 of them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.parallel.comm import ALONE, Axis
from mindformers_codellama.parallel.regions import AddAndCut, AddRanks, GatherParts

Shape = tuple[int, ...]


def buckets(sizes: Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    """Neighbouring tensors in at most `count` groups of about equal size; places in `sizes`, none of them empty."""
    total, done = max(sum(sizes), 1), 0
    groups: dict[int, list[int]] = {}
    for place, size in enumerate(sizes):
        groups.setdefault(min((done + size // 2) * count // total, count - 1), []).append(place)
        done += size
    return tuple(tuple(group) for group in groups.values())


class Buffers:
    """Which neighbouring tensors travel together, and where each begins in its buffer.

    Args:
        sizes: numbers each tensor has in a line of its buffer.
        count: buffers at most.
    """

    def __init__(self, sizes: Sequence[int], count: int) -> None:
        found = []
        for group in buckets(sizes, count):
            starts = accumulate((sizes[i] for i in group[:-1]), initial=0)
            found.append((group[0], group[-1] + 1, tuple(starts)))
        self.groups = tuple(found)
        """First tensor, the one behind the last, and the starts."""


def _flat(tensor: ms.Tensor) -> ms.Tensor:
    return ops.reshape(tensor, (-1,))


def _lines(count: int, tensor: ms.Tensor) -> ms.Tensor:
    return ops.reshape(tensor, (count, -1))


def _tensor_of(buffer: ms.Tensor, start: int, like: ms.Tensor) -> ms.Tensor:
    return ops.reshape(ops.slice(buffer, (start,), (like.size,)), like.shape)


def _rows_of(buffer: ms.Tensor, ranks: int, start: int, like: ms.Tensor) -> ms.Tensor:
    return ops.reshape(ops.slice(buffer, (0, start), (1, like.size // ranks)), (like.shape[0] // ranks,) + like.shape[1:])


def _whole_of(buffer: ms.Tensor, ranks: int, start: int, like: ms.Tensor) -> ms.Tensor:
    return ops.reshape(ops.slice(buffer, (0, start), (ranks, like.size)), (like.shape[0] * ranks,) + like.shape[1:])


def _float32(tensor: ms.Tensor) -> ms.Tensor:
    return ops.cast(tensor, ms.float32)


def at(tensors: tuple[ms.Tensor, ...], place: int) -> ms.Tensor:
    """The tensor at a place, to be mapped over places."""
    return tensors[place]


def _either(tensors: tuple[ms.Tensor, ...], values: tuple[ms.Tensor, ...], place: int, slot: int) -> ms.Tensor:
    if slot >= 0:
        return values[slot]
    return tensors[place]


class SumTensors(nn.Cell):
    """Every tensor added over an axis, in at most `groups` buffers."""

    def __init__(self, axis: Axis, shapes: Sequence[Shape], groups: int) -> None:
        super().__init__()
        self.buffers = Buffers([math.prod(shape) for shape in shapes], groups)
        self.add = AddRanks(axis)
        self.map = ops.HyperMap()

    def construct(self, tensors: tuple[ms.Tensor, ...], after: ms.Tensor) -> tuple[tuple[ms.Tensor, ...], ms.Tensor]:
        """The sums in the same order, and a tensor to wait for; nothing is sent before `after` is there."""
        results: tuple[ms.Tensor, ...] = ()
        for first, stop, starts in self.buffers.groups:
            own = tensors[first:stop]
            after = self.add(ops.depend(ops.concat(self.map(_flat, own), 0), after))
            results = results + self.map(partial(_tensor_of, after), starts, own)
        return results, after


class SumRows(nn.Cell):
    """This rank's rows (dim 0) of every tensor's sum over an axis, in at most `groups` buffers.

    A buffer holds one line per rank, that rank's rows of each tensor.
    """

    def __init__(self, axis: Axis, shapes: Sequence[Shape], groups: int) -> None:
        super().__init__()
        self.ranks = axis.size
        self.buffers = Buffers([math.prod(shape) // axis.size for shape in shapes], groups)
        self.add = AddAndCut(axis, 0)
        self.map = ops.HyperMap()

    def construct(self, tensors: tuple[ms.Tensor, ...], after: ms.Tensor) -> tuple[tuple[ms.Tensor, ...], ms.Tensor]:
        """As `SumTensors`, with a `ranks`-th of the rows."""
        results: tuple[ms.Tensor, ...] = ()
        for first, stop, starts in self.buffers.groups:
            own = tensors[first:stop]
            after = self.add(ops.depend(ops.concat(self.map(partial(_lines, self.ranks), own), 1), after))
            results = results + self.map(partial(_rows_of, after, self.ranks), starts, own)
        return results, after


class GatherRows(nn.Cell):
    """Every rank's rows (dim 0) of each tensor one below the other, in at most `groups` buffers; `shapes` are the results'."""

    def __init__(self, axis: Axis, shapes: Sequence[Shape], groups: int) -> None:
        super().__init__()
        self.ranks = axis.size
        self.buffers = Buffers([math.prod(shape) // axis.size for shape in shapes], groups)
        self.gather = GatherParts(axis, 0)
        self.map = ops.HyperMap()

    def construct(self, tensors: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, ...]:
        """float32 rows to float32 tensors."""
        results: tuple[ms.Tensor, ...] = ()
        after = tensors[0]
        for first, stop, starts in self.buffers.groups:
            own = tensors[first:stop]
            after = self.gather(ops.depend(ops.concat(self.map(partial(_lines, 1), own), 1), after))
            results = results + self.map(partial(_whole_of, after, self.ranks), starts, own)
        return results


@dataclass(frozen=True, kw_only=True)
class RowCut:
    """Which parameters' moments are cut by rows over the data axis, and how their rows travel."""

    axis: Axis = ALONE
    """The data axis."""
    cut: tuple[bool, ...] = ()
    """Per parameter."""
    groups: int = 1
    """Buffers the updated rows travel in."""


class SumGradients(nn.Cell):
    """Gradients of one rank to gradients of the step: added over the model axis where each rank has a part, and over the data axis.

    Args:
        shapes: of the rank's parameters.
        model: the model axis.
        partial: per parameter, whether ranks of the model axis have parts of its gradient.
        rows: the data axis, and whose gradients only the rank's own rows are needed of.
    """

    def __init__(self, shapes: Sequence[Shape], model: Axis, partial: Sequence[bool], rows: RowCut) -> None:
        super().__init__()
        everything = range(len(shapes))
        self.places = tuple(everything)
        self.map = ops.HyperMap()
        self.partial = tuple(i for i in everything if partial[i]) if model.size > 1 else ()
        cut = rows.cut or (False,) * len(shapes)
        self.cut = tuple(i for i in everything if cut[i])
        self.whole = tuple(i for i in everything if not cut[i]) if rows.axis.size > 1 else ()
        self.partial_at, self.whole_at, self.cut_at = (self._slots(places) for places in (self.partial, self.whole, self.cut))
        if self.partial:
            self.add_partial = SumTensors(model, [shapes[i] for i in self.partial], 1)
        if self.whole:
            groups = 1 if self.cut else rows.groups
            self.add_whole = SumTensors(rows.axis, [shapes[i] for i in self.whole], groups)
        if self.cut:
            self.add_rows = SumRows(rows.axis, [shapes[i] for i in self.cut], rows.groups)

    def construct(self, gradients: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, ...]:
        """Any float type to float32; own rows only of those that are cut."""
        results = self.map(_float32, gradients)
        # every gradient first: the backward pass has collectives of its own, and ranks must not mix the two
        after = ops.depend(ops.zeros((1,), ms.float32), results)
        if self.partial:
            sums, after = self.add_partial(self.take(results, self.partial), after)
            results = self.put(results, self.partial_at, sums)
        if self.whole:
            sums, after = self.add_whole(self.take(results, self.whole), after)
            results = self.put(results, self.whole_at, sums)
        if self.cut:
            sums, after = self.add_rows(self.take(results, self.cut), after)
            results = self.put(results, self.cut_at, sums)
        return results

    def take(self, tensors: tuple[ms.Tensor, ...], places: tuple[int, ...]) -> tuple[ms.Tensor, ...]:
        """Those at `places`."""
        return self.map(partial(at, tensors), places)

    def put(self, tensors: tuple[ms.Tensor, ...], slots: tuple[int, ...], values: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, ...]:
        """The same with `values[slots[i]]` at place i where that is not negative."""
        return self.map(partial(_either, tensors, values), self.places, slots)

    def _slots(self, places: tuple[int, ...]) -> tuple[int, ...]:
        slots = {place: slot for slot, place in enumerate(places)}
        return tuple(slots.get(i, -1) for i in self.places)
