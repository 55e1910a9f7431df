"""Deterministic initial weights: a function of the seed and of each parameter's name only."""

from __future__ import annotations

import zlib

import mindspore as ms
import numpy as np

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


def init_parameters(network: LlamaNetwork, seed: int, *, std: float = DEFAULT_STD) -> None:
    """Fill every parameter of `network`; the same seed gives the same bytes on every machine."""
    for name, parameter in network.parameters_and_names():
        values = initial_value(name, tuple(parameter.shape), seed, std=std)
        parameter.set_data(ms.Tensor(values).astype(parameter.dtype))
