"""Small products with known results, computed by every level before it is trusted.

A machine may say that it has instructions which it (or what emulates it) gets wrong; wrong numbers must not go unnoticed.
All values are small integers, so every result is exact whatever the order of summing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

ROWS, WIDTH, OUT = 3, 64, 16
Call = Callable[[str, Sequence[np.ndarray], Sequence[np.ndarray]], None]


class Known(NamedTuple):
    """An entry point, its inputs and the exact result."""

    name: str
    inputs: tuple[np.ndarray, ...]
    result: np.ndarray


def known_results() -> Iterator[Known]:
    """One for every kind of special instruction: float32, pairs of bfloat16, bytes and nibbles."""
    x = (np.arange(ROWS * WIDTH).reshape(ROWS, WIDTH) * 37 % 255 - 127).astype(np.float32)
    x[:, 0] = 127  # a group's largest value, so that its scale is 1
    weight = (np.arange(OUT * WIDTH).reshape(OUT, WIDTH) * 11 % 15 - 7).astype(np.float32)
    product = x @ weight.T
    yield Known("RmsNorm", (np.full((1, 17), 2, np.float32), np.arange(17, dtype=np.float32), np.zeros(1, np.float32)), _norm())
    yield Known("LinearFloat32", (x, weight), product)
    yield Known("LinearBfloat16", (x.astype(ml_dtypes.bfloat16), weight.astype(ml_dtypes.bfloat16)), product)
    scales = np.full((1, 1, OUT), 0x3F80, np.uint16)
    q = weight.astype(np.int64)
    bytes_ = (q + 128).reshape(1, OUT, WIDTH // 4, 4).transpose(0, 2, 1, 3)
    yield Known("PackedLinear", (x, _uint8(bytes_), scales, _settings(2)), product)
    halves = (q + 8).reshape(1, OUT, WIDTH // 8, 2, 4).transpose(0, 2, 1, 3, 4)
    yield Known("PackedLinear", (x, _uint8(halves[..., 0, :] | halves[..., 1, :] << 4), scales, _settings(3)), product)


def finds_fault(call: Call) -> str:
    """What the level in use gets wrong; empty when every result is exact."""
    for known in known_results():
        result = np.full(known.result.shape, np.nan, np.float32)
        try:
            call(known.name, known.inputs, [result])
        except (ValueError, AttributeError) as error:
            return f"{known.name}: {error}"
        if not np.array_equal(result, known.result):
            return f"{known.name} computes {result.ravel()[:3]}... instead of {known.result.ravel()[:3]}..."
    return ""


def _norm() -> np.ndarray:
    return np.arange(17, dtype=np.float32)[None]


def _uint8(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.astype(np.uint8))


def _settings(form: int) -> np.ndarray:
    return np.array([form, OUT, WIDTH, WIDTH], np.int32)
