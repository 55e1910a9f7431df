"""`PackedModel`: a whole model's weights as the network kernel reads them, from files or made at load.

Shape letters: L layers, D hidden, N query heads, K key/value heads, H head, F intermediate, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.quantization.formats import FORMS, LIMITS

__all__ = ["FORMS", "ROLES", "SCALED_FORMS", "PackedModel", "part_names", "role_columns", "role_parts"]

SCALED_FORMS = tuple(LIMITS)
"""Those with one scale per row and group."""
ROLES = ("qkv", "o", "gate_up", "down", "head")
"""Matrices; all but the head are stacked over layers."""


@dataclass(frozen=True, kw_only=True)
class PackedModel:
    """Weights of one whole model. The arrays may be memory-mapped; they are read where they lie, never copied.

    Arrays by name, all C-contiguous:

    - `embedding`: `(V, D)`, float32, or the bits of bfloat16 as uint16.
    - `norms`: float32 `(2 L + 1, D)`: attention norm and feed-forward norm of every layer, then the final one.
    - `qkv_bias`: float32 `(L, (N + 2 K) H)`, only when the model has these biases.
    - `qkv`, `o`, `gate_up`, `down`: `(L, ...)`, and `head`: one matrix each per layer, packed by `quantization.packing`.
      A fused one is its parts packed one by one and laid behind each other along the tiles, so that each part begins
      with a tile of its own: `qkv` is wq, wk, wv; `gate_up` is w1, w3. bfloat16 is held as uint16, int8 and int4 as uint8.
      Of the form float32 they are row-major `(L, rows, columns)`, parts laid behind each other by rows, nothing padded.
    - `qkv_scales`, `o_scales`, `gate_up_scales`, `down_scales`, `head_scales`: the bits of bfloat16 as uint16, laid
      likewise; only of the forms int8 and int4.
    """

    config: ModelConfig
    form: str
    """One of `FORMS`."""
    group: int
    """Columns that share a scale, 64 or 128; 0 for forms without scales."""
    arrays: Mapping[str, np.ndarray]


def role_parts(config: ModelConfig, role: str) -> tuple[int, ...]:
    """Rows of each part of a matrix, in order; `(rows,)` when it is not fused."""
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "qkv": (width, kv_width, kv_width),
        "o": (config.hidden_size,),
        "gate_up": (config.intermediate_size, config.intermediate_size),
        "down": (config.hidden_size,),
        "head": (config.vocab_size,),
    }[role]


def role_columns(config: ModelConfig, role: str) -> int:
    """Columns of a matrix before padding: the width of what it is multiplied with."""
    return {"o": config.num_heads * config.head_dim, "down": config.intermediate_size}.get(role, config.hidden_size)


def part_names(layer: int, role: str) -> tuple[str, ...]:
    """Parameters of a network that are the parts of a matrix, in order; the head has no layer."""
    prefix = f"model.layers.{layer}"
    return {
        "qkv": tuple(f"{prefix}.attention.{name}.weight" for name in ("wq", "wk", "wv")),
        "o": (f"{prefix}.attention.wo.weight",),
        "gate_up": tuple(f"{prefix}.feed_forward.{name}.weight" for name in ("w1", "w3")),
        "down": (f"{prefix}.feed_forward.w2.weight",),
        "head": ("lm_head.weight",),
    }[role]
