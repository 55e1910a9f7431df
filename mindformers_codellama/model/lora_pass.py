"""Forward and backward of one block whose layers have adapters, by the C++ kernels without a graph (`kernel_pass`).

A layer computes `W h + scale B (A drop(h))`. Of what the adapter makes only u = scale A drop(h) is kept, R numbers per token; no
gradient of a frozen weight is ever made, which is a third of the arithmetic of full training. Sums of both parts are float32,
rounded once. What `dropout` leaves out is a function of seed, step, part of the step and layer, so a resumed run leaves out the same.
Letters: X tokens, I and O width of a layer's input and output, R rank.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from mindspore import ops

from mindformers_codellama.kernels.linear import input_grad_operator, linear_operator, weight_grad_operator
from mindformers_codellama.kernels.operators import kernel_operator
from mindformers_codellama.kernels.training import KernelGate, add_in_place_operator, gate_grad_in_place_operator
from mindformers_codellama.model.decoder import DecoderBlock
from mindformers_codellama.model.kernel_block import KernelBlock
from mindformers_codellama.model.linear import Linear

Give = Callable[[ms.Parameter, ms.Tensor], None]


@dataclass
class Dropout:
    """What the adapters of a network leave out of their inputs."""

    share: float = 0.0
    """Of the inputs of A; the others are multiplied by 1 / (1 - share)."""
    seed: int = 0
    """Of the run."""
    draw: tuple[int, ...] = ()
    """The step, and the part of it."""

    def mask(self, name: str, shape: tuple[int, ...]) -> ms.Tensor:
        """float32, 0 or 1 / (1 - share)."""
        rng = np.random.default_rng([self.seed, *self.draw, zlib.crc32(name.encode())])
        kept = rng.random(shape, dtype=np.float32) >= self.share
        return ms.Tensor(kept.astype(np.float32) / np.float32(1.0 - self.share))


class AdaptedLinear:
    """Products of one layer outside of a graph; of one without an adapter W alone."""

    def __init__(self, linear: Linear, name: str, compute_dtype: ms.Type, dropout: Dropout) -> None:
        self.weight = linear.weight
        self.adapts = linear.adapts
        self.name, self.dropout = name, dropout
        self.is_bfloat16 = compute_dtype == ms.bfloat16
        self.product = linear_operator(compute_dtype, ms.float32)
        self.narrow = kernel_operator("ToBfloat16", lambda x: x, lambda x: ms.bfloat16)
        self.input_grad, self.weight_grad = input_grad_operator(compute_dtype), weight_grad_operator(compute_dtype)
        self.add = add_in_place_operator()
        if self.adapts:
            self.lora_a, self.lora_b, self.scale = linear.lora_a, linear.lora_b, linear.lora_scale

    def forward(self, h: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor | None]:
        """float32 `(..., O)`, and u for the backward pass."""
        y = self.product(h, self.weight)
        if not self.adapts:
            return y, None
        u = self.product(self._dropped(h), self.lora_a) * self.scale
        self.add(y, self.product(u, self.lora_b))
        return y, u

    def compute(self, h: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor | None]:
        """The same with y in the compute type."""
        y, u = self.forward(h)
        return self.narrow(y) if self.is_bfloat16 else y, u

    def backward(self, dy: ms.Tensor, h: ms.Tensor, u: ms.Tensor | None, give: Give) -> ms.Tensor | None:
        """Give the gradients of A and B; the gradient of A h `(..., R)` for `input_gradient`, None without an adapter."""
        if u is None:
            return None
        give(self.lora_b, self.weight_grad(dy, u))
        du = self.input_grad(dy, self.lora_b, u) * self.scale
        give(self.lora_a, self.weight_grad(du, self._dropped(h)))
        return du

    def _dropped(self, h: ms.Tensor) -> ms.Tensor:
        if not self.dropout.share:
            return h
        return ops.cast(h, ms.float32) * self.dropout.mask(self.name, tuple(h.shape))


def input_gradient(layers: Sequence[tuple[AdaptedLinear, ms.Tensor, ms.Tensor | None]], like: ms.Tensor) -> ms.Tensor:
    """Gradient of what several layers read, in shape and type of `like`; summed in float32, rounded once.

    Args:
        layers: each with the gradient of its output, and with what its `backward` gave.
        like: float32 or the compute type.
    """
    first = layers[0][0]
    frozen = [item for layer, dy, _ in layers for item in (dy, layer.weight)]
    adapters = [(layer, du) for layer, _, du in layers if du is not None]
    if not first.dropout.share:
        return first.input_grad(*frozen, *(item for layer, du in adapters for item in (du, layer.lora_a)), like)
    wide = like if like.dtype == ms.float32 else ops.zeros(like.shape, ms.float32)
    total = first.input_grad(*frozen, wide)
    for layer, du in adapters:
        first.add(total, first.input_grad(du, layer.lora_a, wide) * layer.dropout.mask(layer.name, tuple(wide.shape)))
    return total if like.dtype == ms.float32 else first.narrow(total)


@dataclass(slots=True)
class KeptWithAdapter:
    """What a block keeps for its backward pass; tensors as of `kernel_pass.Kept`."""

    x: ms.Tensor
    q: ms.Tensor
    k: ms.Tensor
    v: ms.Tensor
    mixed: ms.Tensor
    sums: ms.Tensor
    middle: ms.Tensor
    a: ms.Tensor
    b: ms.Tensor
    reduced: dict[str, ms.Tensor | None] = field(default_factory=dict)
    """Name of a layer to its u."""


class AdaptedBlockPass:
    """`kernel_pass.BlockPass` of a block with adapters; every weight of the block itself is frozen.

    Args:
        layer: its weights and Cells.
        index: number of the block.
        dropout: shared by all blocks.
    """

    def __init__(self, layer: DecoderBlock, index: int, dropout: Dropout) -> None:
        self.cells: KernelBlock = layer.kernel_block
        self.attention_norm, self.ffn_norm = layer.attention_norm.weight, layer.ffn_norm.weight
        compute_dtype = layer.attention.compute_dtype

        def adapted(linear: Linear, name: str) -> AdaptedLinear:
            return AdaptedLinear(linear, f"{index}.{name}", compute_dtype, dropout)

        attention, inner = layer.attention, layer.feed_forward
        self.wq, self.wk, self.wv = adapted(attention.wq, "wq"), adapted(attention.wk, "wk"), adapted(attention.wv, "wv")
        self.wo, self.w1, self.w2 = adapted(attention.wo, "wo"), adapted(inner.w1, "w1"), adapted(inner.w2, "w2")
        self.w3 = adapted(inner.w3, "w3")
        self.gate = KernelGate().forward
        self.gate_grad, self.add = gate_grad_in_place_operator(), add_in_place_operator()
        self.input_grad = input_grad_operator(compute_dtype)

    def forward(self, x_BSD: ms.Tensor, where: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, KeptWithAdapter]:
        """float32 `(B, S, D)` to the same, and what is kept; `where` as of `KernelBlock`."""
        cells, reduced = self.cells, {}
        h_BSD = cells.attention_input.norm(x_BSD, self.attention_norm, cells.attention_input.eps)
        q, reduced["wq"] = self.wq.compute(h_BSD)
        k, reduced["wk"] = self.wk.compute(h_BSD)
        v, reduced["wv"] = self.wv.compute(h_BSD)
        mixed, sums = cells.attention.construct(q, k, v, *where)
        middle_BSD, reduced["wo"] = self.wo.forward(mixed)
        self.add(middle_BSD, x_BSD)
        h_BSD = cells.feed_forward_input.norm(middle_BSD, self.ffn_norm, cells.feed_forward_input.eps)
        a, reduced["w1"] = self.w1.compute(h_BSD)
        b, reduced["w3"] = self.w3.compute(h_BSD)
        y_BSD, reduced["w2"] = self.w2.forward(self.gate(a, b))
        self.add(y_BSD, middle_BSD)
        return y_BSD, KeptWithAdapter(x_BSD, q, k, v, mixed, sums, middle_BSD, a, b, reduced)

    def backward(self, dx_BSD: ms.Tensor, kept: KeptWithAdapter, where: tuple[ms.Tensor, ...], give: Give) -> None:
        """Turn `dx_BSD`, the gradient of what `forward` gave, into that of its input, in place; `kept` is used up."""
        self._feed_forward_backward(dx_BSD, kept, give)
        cells, cell, reduced, x_BSD = self.cells, self.cells.attention_input, kept.reduced, kept.x
        dmixed = input_gradient([(self.wo, dx_BSD, self.wo.backward(dx_BSD, kept.mixed, reduced["wo"], give))], kept.mixed)
        dq, dk, dv = cells.attention.backward(kept.q, kept.k, kept.v, *where, cells.attention.heads, kept.mixed, kept.sums, dmixed)
        del dmixed, kept.q, kept.k, kept.v, kept.mixed
        h_BSD = cell.norm(x_BSD, self.attention_norm, cell.eps)
        layers = ((self.wq, dq, "wq"), (self.wk, dk, "wk"), (self.wv, dv, "wv"))
        dh_BSD = input_gradient([(layer, dy, layer.backward(dy, h_BSD, reduced[name], give)) for layer, dy, name in layers], x_BSD)
        del dq, dk, dv, layers, h_BSD
        self.add(dx_BSD, cell.norm_grad(x_BSD, self.attention_norm, cell.eps, dh_BSD)[0])

    def _feed_forward_backward(self, dx_BSD: ms.Tensor, kept: KeptWithAdapter, give: Give) -> None:
        cell, reduced, x_BSD = self.cells.feed_forward_input, kept.reduced, kept.middle
        inner_BSF = self.gate(kept.a, kept.b) if self.w2.adapts else kept.a
        dinner_BSF = input_gradient([(self.w2, dx_BSD, self.w2.backward(dx_BSD, inner_BSF, reduced["w2"], give))], kept.a)
        del inner_BSF
        self.gate_grad(kept.a, kept.b, dinner_BSF)  # a and b become their gradients
        da, db = kept.a, kept.b
        del kept.a, kept.b, kept.middle, dinner_BSF
        h_BSD = cell.norm(x_BSD, self.ffn_norm, cell.eps)
        layers = ((self.w1, da, "w1"), (self.w3, db, "w3"))
        dh_BSD = input_gradient([(layer, dy, layer.backward(dy, h_BSD, reduced[name], give)) for layer, dy, name in layers], x_BSD)
        del da, db, layers, h_BSD
        self.add(dx_BSD, cell.norm_grad(x_BSD, self.ffn_norm, cell.eps, dh_BSD)[0])
