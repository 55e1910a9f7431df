"""Matrices held as int8 or int4 in exported graphs, made floating again by standard operators where they are multiplied.

The integers and scales are those of `codellama quantize` (`quantization.quantize`), so a graph computes with exactly the values
a packed model stands for; the packed kernels also round what they multiply with, a graph does not. Every call makes the whole
matrix floating again: this saves disk and memory, not time. Shape letters: O rows, I columns, C columns with padding, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.model.linear import Linear
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.quantization.formats import DEFAULT_GROUP
from mindformers_codellama.quantization.quantize import as_float32, dequantize, quantize


class IntegerLinear(nn.Cell):
    """`y = x @ (weight * scales).T`, as `model.linear.Linear`.

    Args:
        integers_OC: int8; of int4 in [-8, 7].
        scales_OG: bfloat16.
        in_size: I.
        form: `int8`, or `int4`: two columns in a byte, the first in the low half, 8 added to each.
    """

    def __init__(self, integers_OC: np.ndarray, scales_OG: np.ndarray, *, in_size: int, form: str) -> None:
        super().__init__()
        self.rows, self.columns = integers_OC.shape
        self.groups, self.in_size, self.halves = scales_OG.shape[1], in_size, form == "int4"
        held = pack_halves(integers_OC) if self.halves else integers_OC
        self.weight = ms.Parameter(ms.Tensor(held), name="weight", requires_grad=False)
        self.scales = ms.Parameter(ms.Tensor(as_float32(scales_OG)), name="scales", requires_grad=False)
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """`(..., I)` to `(..., O)`, float32."""
        shape = x.shape
        integers_OC = ops.cast(self.weight, ms.float32)
        if self.halves:
            high = ops.floor(integers_OC * 0.0625)
            both = ops.stack((integers_OC - high * 16.0, high), 2)
            integers_OC = both - 8.0
        groups_OGX = ops.reshape(integers_OC, (self.rows, self.groups, self.columns // self.groups))
        weight_OC = ops.reshape(groups_OGX * ops.expand_dims(self.scales, 2), (self.rows, self.columns))
        weight_OI = ops.slice(weight_OC, (0, 0), (self.rows, self.in_size))
        y_XO = self.matmul(ops.reshape(x, (-1, self.in_size)), weight_OI)
        return ops.reshape(y_XO, shape[:-1] + (self.rows,))


def pack_halves(integers_OC: np.ndarray) -> np.ndarray:
    """uint8 `(O, C / 2)` of int8 in [-8, 7]."""
    raised = (integers_OC.astype(np.int16) + 8).astype(np.uint8)
    return raised[:, 0::2] | (raised[:, 1::2] << 4)


class Integers:
    """The matrices of a network in a form: first rounded in place, then put in as they are held.

    Between the two the network is an ordinary one with the values the integers stand for, which is what the graphs are
    compared with.

    Args:
        network: whole, float32; changed.
        form: `int8` or `int4`.
        group: columns that share a scale.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """

    def __init__(self, network: LlamaNetwork, form: str, group: int = DEFAULT_GROUP) -> None:
        self._network, self._form = network, form
        self._held: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, owner, key in matrices(network):
            linear = getattr(owner, key)
            integers, scales = quantize(linear.weight.asnumpy(), form, group, where=name)
            self._held[name] = (integers, scales)
            linear.weight.set_data(ms.Tensor(dequantize(integers, scales, linear.in_size)))

    def put_in(self) -> None:
        """Let the network hold integers."""
        for name, owner, key in matrices(self._network):
            linear = getattr(owner, key)
            cell = IntegerLinear(*self._held.pop(name), in_size=linear.in_size, form=self._form)
            setattr(owner, key, cell)
            cell.weight.name, cell.scales.name = f"{name}.weight", f"{name}.scales"


def matrices(network: LlamaNetwork) -> Iterator[tuple[str, nn.Cell, str]]:
    """Name, owner and attribute of every `Linear`; the embedding stays as it is, it is looked up and not multiplied."""
    for index, block in enumerate(network.model.layers):
        for part in ("attention", "feed_forward"):
            owner = getattr(block, part)
            keys = ("wq", "wk", "wv", "wo") if part == "attention" else ("w1", "w2", "w3")
            for key in keys:
                assert isinstance(getattr(owner, key), Linear), key
                yield f"model.layers.{index}.{part}.{key}", owner, key
    yield "lm_head", network, "lm_head"
