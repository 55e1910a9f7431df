"""Rotary position embedding (arXiv 2104.09864), the half-split rule of Hugging Face and MindFormers.

The head is cut in two halves `(a, b)`, pair i being `(a_i, b_i)`; each pair is turned by
`position * rope_theta^(-2 i / H)`. Meta's `.pth` files hold neighbouring pairs instead: the converter
permutes their q and k rows, never this code.
Shape letters: B batch, S positions, N heads, H head, R = H / 2 pairs, P positions of the table.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindspore.ops.functional import is_sequence_value_unknown

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.runtime.dtypes import mindspore_dtype


def rotary_angles(config: ModelConfig, positions: int) -> np.ndarray:
    """Angles `(P, R)` of positions 0..P-1, rounded to float32 at the steps where transformers rounds.

    The weights were trained with float32 angles, so more exact ones would be further from the
    original at far positions (an angle of 1e4 rad has a float32 spacing of 1e-3).
    PI divides positions by `scaling_factor` (arXiv 2306.15595); NTK multiplies `rope_theta` by it
    (MindFormers' rule; the exponent form of other projects is not used).
    """
    theta = config.rope_theta * (config.scaling_factor if config.extend_method == "NTK" else 1.0)
    exponents_R = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies_R = (np.float32(1.0) / np.power(np.float32(theta), exponents_R)).astype(np.float32)
    positions_P = np.arange(positions, dtype=np.float32)
    if config.extend_method == "PI":
        positions_P = positions_P / np.float32(config.scaling_factor)
    return np.outer(positions_P, frequencies_R).astype(np.float32)


class RotaryTable(nn.Cell):
    """cos and sin of every position, as constants of the graph, laid out for `rotate`.

    `construct` gives `(1 or B, S, 1, H)` twice: the first S positions, or those asked for.
    Position ids must lie in [0, `positions`).
    """

    def __init__(self, config: ModelConfig, *, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.head_dim = config.head_dim
        angles_PR = rotary_angles(config, positions).astype(np.float64)
        dtype = mindspore_dtype(config.rotary_dtype)
        cos_PH = np.concatenate((np.cos(angles_PR), np.cos(angles_PR)), axis=-1)
        sin_PH = np.concatenate((-np.sin(angles_PR), np.sin(angles_PR)), axis=-1)
        self.cos_PH = ms.Tensor(cos_PH.astype(np.float32)).astype(dtype)
        self.sin_PH = ms.Tensor(sin_PH.astype(np.float32)).astype(dtype)
        self.gather = ops.Gather()

    def construct(self, length: int, position_ids_BS: ms.Tensor | None = None) -> tuple[ms.Tensor, ms.Tensor]:
        """The cosines and sines for rows of `length` tokens; the first half of the sines is negated."""
        if position_ids_BS is None:
            size = (length, self.head_dim)
            shape = (1, length, 1, self.head_dim)
            return ops.reshape(ops.slice(self.cos_PH, (0, 0), size), shape), ops.reshape(ops.slice(self.sin_PH, (0, 0), size), shape)
        cos_BSH = self.gather(self.cos_PH, position_ids_BS, 0)
        sin_BSH = self.gather(self.sin_PH, position_ids_BS, 0)
        return ops.expand_dims(cos_BSH, 2), ops.expand_dims(sin_BSH, 2)


def rotate(x_BSNH: ms.Tensor, cos_BS1H: ms.Tensor, sin_BS1H: ms.Tensor) -> ms.Tensor:
    """Turn every pair of the two halves; computed in the type of cos, returned in the type of x.

    With halves `(a, b)`: `(a cos - b sin, b cos + a sin)`. `ops.slice` and not indexing: the strided
    slice that indexing becomes took 30 us on the CPU against 3 us, four times per block.

    Args:
        x_BSNH: queries or keys.
        cos_BS1H: cosines, broadcast over heads (and over rows when its B is 1).
        sin_BS1H: sines, the first half negated, likewise.
    """
    x = ops.cast(x_BSNH, cos_BS1H.dtype)
    batch, length, heads, size = x.shape
    # -1 is all of a dim: a graph of unknown lengths is exported with sizes that are known
    half = (-1, -1, -1, size // 2) if is_sequence_value_unknown(x.shape) else (batch, length, heads, size // 2)
    a_BSNR = ops.slice(x, (0, 0, 0, 0), half)
    b_BSNR = ops.slice(x, (0, 0, 0, size // 2), half)
    turned = x * cos_BS1H + ops.concat((b_BSNR, a_BSNR), -1) * sin_BS1H
    return ops.cast(turned, x_BSNH.dtype)
