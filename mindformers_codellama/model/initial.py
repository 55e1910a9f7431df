"""Deterministic initial weights: a function of the seed and of each parameter's name only."""

from __future__ import annotations

import zlib

import mindspore as ms
import numpy as np

from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.model.llama import LlamaNetwork

DEFAULT_STD = 0.02
"""Standard deviation of embedding and matrices (transformers' `initializer_range` for Llama)."""


def initial_value(name: str, shape: tuple[int, ...], seed: int, *, std: float = DEFAULT_STD) -> np.ndarray:
    """float32 values of one parameter: norms 1, biases 0, everything else normal with `std`.

    Each parameter has a generator of its own, so values do not depend on the order of creation or
    on which other parameters exist.
    """
    if len(shape) == 1:
        return np.zeros(shape, np.float32) if name.endswith(".bias") else np.ones(shape, np.float32)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= np.float32(std)
    return values


def init_parameters(
    network: LlamaNetwork, seed: int, *, std: float = DEFAULT_STD, model_layout: ModelLayout | None = None, rank: int = 0
) -> None:
    """Fill every parameter of `network`; the same seed gives the same bytes on every machine and in every layout.

    Args:
        network: whole, or the part of a rank.
        seed: any whole number.
        std: of matrices and embeddings.
        model_layout: where a part lies; None for a whole network. A whole tensor is drawn, then cut.
        rank: whose part it is.
    """
    for name, parameter in network.parameters_and_names():
        box = None if model_layout is None else model_layout.box(name, rank)
        shape = tuple(parameter.shape) if model_layout is None else model_layout.shapes[name]
        values = initial_value(name, shape, seed, std=std)
        own = values if box is None else np.ascontiguousarray(values[box.slices])
        assert own.shape == tuple(parameter.shape), (name, own.shape, parameter.shape)
        parameter.set_data(ms.Tensor(own).astype(parameter.dtype))
