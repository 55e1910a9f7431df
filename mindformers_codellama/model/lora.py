"""Low-rank adapters on a network (LoRA, arXiv 2106.09685): which parameters they are, how they begin, what stays frozen.

A linear layer of weight W `(O, I)` gets A `(R, I)` and B `(O, R)` and computes `W x + scale B (A x)`. Names are MindFormers':
`<layer>.mindpet_delta_lora_A` and `_B` (mindpet 1.0, `LoRADense`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.common.initializer import initializer

from mindformers_codellama.config.sections_pet import PetSection
from mindformers_codellama.model.linear import Linear
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.runtime.dtypes import mindspore_dtype

NAME_A, NAME_B = "mindpet_delta_lora_A", "mindpet_delta_lora_B"


def add_adapter(network: LlamaNetwork, pet: PetSection, seed: int) -> dict[str, Linear]:
    """Give the network an adapter and freeze everything else; before its weights are loaded and before it is compiled.

    Where products are made in bfloat16 by the kernels, frozen matrices of the blocks are held in bfloat16: each factor is rounded
    to that in any case, so the numbers are the same.

    Args:
        network: whole.
        pet: what gets an adapter, and its rank and scale.
        seed: of A; B is zero, so that the network computes what it did.

    Returns:
        Module name (`model.layers.0.attention.wq`) to the layer, in the network's order.
    """
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    adapted = {name: linear_at(network, name) for name in pet.modules(network.config.num_layers)}
    for name, linear in adapted.items():
        a_RI = initial_a(f"{name}.{NAME_A}", (pet.lora_rank, linear.in_size), seed)
        linear.adapt(
            ms.Parameter(ms.Tensor(a_RI), name=f"{name}.{NAME_A}"),
            ms.Parameter(ms.Tensor(np.zeros((linear.out_size, pet.lora_rank), np.float32)), name=f"{name}.{NAME_B}"),
            pet.scale,
        )
    network.adapts = True
    if network.uses_kernels and mindspore_dtype(network.config.compute_dtype) == ms.bfloat16:
        for linear in _linears_of_blocks(network):
            held = linear.weight  # another Parameter: `set_data` would keep the type
            zeros = initializer("zeros", tuple(held.shape), ms.bfloat16)
            linear.weight = ms.Parameter(zeros, name=held.name, requires_grad=False)
    return adapted


def initial_a(name: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """float32 `(R, I)`, uniform within 1 / sqrt(I): what PEFT and mindpet draw (He uniform with slope sqrt 5).

    A function of seed and name only, as `model.initial.initial_value`.
    """
    bound = 1.0 / math.sqrt(shape[1])
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).uniform(-bound, bound, shape).astype(np.float32)


def linear_at(network: LlamaNetwork, module: str) -> Linear:
    """The layer of a name such as `model.layers.0.attention.wq`."""
    cell: nn.Cell = network
    for part in module.split("."):
        cell = cell[int(part)] if part.isdecimal() else getattr(cell, part)
    assert isinstance(cell, Linear), module
    return cell


def _linears_of_blocks(network: LlamaNetwork) -> Iterator[Linear]:
    for block in network.model.layers:
        attention, inner = block.attention, block.feed_forward
        yield from (attention.wq, attention.wk, attention.wv, attention.wo, inner.w1, inner.w2, inner.w3)
