"""Where activations change hands between the ranks of the model axis: Cells with a forward and a backward of their own.

A tensor between two regions is either *whole* (the same on every rank), *partial* (the ranks' tensors must be added) or
*cut* along a dim (each rank has its part). The backward of a region says the same of the gradient:

| region | tensor, before -> after | gradient, after -> before |
|---|---|---|
| CopyRegion | whole -> whole, into layers cut over ranks | partial -> whole (AllReduce) |
| ReduceRegion | partial -> whole (AllReduce) | whole -> whole |
| GatherRegion(sums=True) | cut -> whole, into layers cut over ranks | partial -> cut (ReduceScatter) |
| GatherRegion(sums=False) | cut -> whole, into layers that are whole on every rank | whole -> cut (own part) |
| ScatterRegion | partial -> cut (ReduceScatter) | cut -> whole (gather) |
| SplitRegion | whole -> cut (own part) | cut -> whole (gather) |

Megatron's f, g, g and its conjugate are rows 1, 2, 3 and 5 (arXiv 1909.08053, 2205.05198). On the CPU a group knows AllReduce
only, so a gather is an AllReduce of parts laid between zeros (exact) and a ReduceScatter an AllReduce and a cut. On Ascend
AllGather and ReduceScatter are used; not run on Ascend. Every Cell works in PyNative and graph mode and under `ms.jit`.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.parallel.comm import Axis
from mindformers_codellama.runtime.context import current_device

POSITIONS = 1
"""The dim of a residual stream `(B, S, D)` that is cut along positions."""


class AddRanks(nn.Cell):
    """The sum of every rank's tensor, on every rank; no gradient of its own."""

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce(group=axis.group)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Any shape."""
        return self.all_reduce(x)


class OwnPart(nn.Cell):
    """This rank's equal part of a tensor along `dim`; no communication."""

    def __init__(self, axis: Axis, dim: int) -> None:
        super().__init__()
        self.size, self.index, self.dim = axis.size, axis.index, dim

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Dim `dim` must be divisible."""
        size = x.shape[self.dim] // self.size
        start = (0,) * self.dim + (self.index * size,) + (0,) * (x.ndim - self.dim - 1)
        return ops.slice(x, start, x.shape[: self.dim] + (size,) + x.shape[self.dim + 1 :])


class GatherParts(nn.Cell):
    """Every rank's tensor side by side along `dim`, in the order of ranks; exact."""

    def __init__(self, axis: Axis, dim: int) -> None:
        super().__init__()
        self.size, self.index, self.dim = axis.size, axis.index, dim
        self.adds = current_device() == "CPU"
        if self.adds:
            self.all_reduce = ops.AllReduce(group=axis.group)
        else:
            self.all_gather = ops.AllGather(group=axis.group)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """`x` has the same shape on every rank."""
        if self.adds:
            zeros = ops.zeros_like(x)
            parts = (zeros,) * self.index + (x,) + (zeros,) * (self.size - 1 - self.index)
            return self.all_reduce(ops.concat(parts, self.dim))
        return ops.concat(ops.split(self.all_gather(x), x.shape[0], 0), self.dim)


class AddAndCut(nn.Cell):
    """This rank's part along `dim` of the sum of every rank's tensor."""

    def __init__(self, axis: Axis, dim: int) -> None:
        super().__init__()
        self.size, self.dim = axis.size, dim
        self.adds = current_device() == "CPU"
        if self.adds:
            self.all_reduce = ops.AllReduce(group=axis.group)
            self.own = OwnPart(axis, dim)
        else:
            self.reduce_scatter = ops.ReduceScatter(group=axis.group)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Dim `dim` must be divisible."""
        if self.adds:
            return self.own(self.all_reduce(x))
        return self.reduce_scatter(ops.concat(ops.split(x, x.shape[self.dim] // self.size, self.dim), 0))


class CopyRegion(nn.Cell):
    """Nothing forward; adds the gradients of the layers behind it, of which every rank has a part."""

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self.add = AddRanks(axis)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Gives `x`."""
        return x

    def bprop(self, x: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor]:
        """AllReduce."""
        return (self.add(dout),)


class ReduceRegion(nn.Cell):
    """Adds what the ranks have, each a part; the gradient of the sum is that of every summand."""

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self.add = AddRanks(axis)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """AllReduce, in the type of `x`."""
        return self.add(x)

    def bprop(self, x: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor]:
        """Gives `dout`."""
        return (dout,)


class GatherRegion(nn.Cell):
    """Makes a cut tensor whole.

    Args:
        axis: the ranks.
        dim: cut along it.
        sums: the layers behind it are cut over ranks, so that each rank has a part of the gradient. False when every rank
            computes the same there: adding would count the gradient once per rank.
    """

    def __init__(self, axis: Axis, dim: int, *, sums: bool) -> None:
        super().__init__()
        self.gather = GatherParts(axis, dim)
        self.back = AddAndCut(axis, dim) if sums else OwnPart(axis, dim)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Dim `dim` becomes as many times longer as there are ranks."""
        return self.gather(x)

    def bprop(self, x: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor]:
        """Own part, of the sum or of what every rank has."""
        return (self.back(dout),)


class ScatterRegion(nn.Cell):
    """Adds what the ranks have, each a part of everything, and keeps the own part along `dim`."""

    def __init__(self, axis: Axis, dim: int) -> None:
        super().__init__()
        self.scatter = AddAndCut(axis, dim)
        self.gather = GatherParts(axis, dim)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """ReduceScatter."""
        return self.scatter(x)

    def bprop(self, x: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor]:
        """Gather."""
        return (self.gather(dout),)


class SplitRegion(nn.Cell):
    """Keeps the own part along `dim` of what every rank has."""

    def __init__(self, axis: Axis, dim: int) -> None:
        super().__init__()
        self.own = OwnPart(axis, dim)
        self.gather = GatherParts(axis, dim)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """No communication."""
        return self.own(x)

    def bprop(self, x: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor]:
        """Gather."""
        return (self.gather(dout),)


class FirstOnly(nn.Cell):
    """What the first rank has, on every rank, bit by bit; without gradient."""

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self.is_first = ms.Tensor(np.array([axis.index == 0]))
        self.select = ops.Select()
        self.all_reduce = ops.AllReduce(group=axis.group)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Any shape; zeros of the others are added, so infinities and NaN pass too.

        The choice is an operator: were it made in Python, the other ranks' graphs would need nothing that leads to `x` and
        drop it, the communication inside too.
        """
        return self.all_reduce(self.select(ops.broadcast_to(self.is_first, x.shape), x, ops.zeros_like(x)))
