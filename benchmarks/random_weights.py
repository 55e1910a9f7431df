"""Random weights of a shape, the same numbers for every engine: each tensor is drawn from its own name. Needs numpy alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from shapes import Shape

SPREAD = 0.02
"""Standard deviation, as models are initialised."""


@dataclass(frozen=True)
class Weight:
    """One tensor: its name in Hugging Face's files, its name in GGUF, its dimensions (out, in)."""

    name: str
    gguf_name: str
    dims: tuple[int, ...]

    @property
    def is_norm(self) -> bool:
        return len(self.dims) == 1

    def values(self) -> np.ndarray:
        """float32; norms are 1."""
        if self.is_norm:
            return np.ones(self.dims, np.float32)
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        return rng.standard_normal(self.dims, np.float32) * np.float32(SPREAD)


def weights(shape: Shape) -> Iterator[Weight]:
    """Every tensor of the network, in the order of a forward."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    kv = hidden // shape.num_heads * shape.num_kv_heads
    yield Weight("model.embed_tokens.weight", "token_embd.weight", (shape.vocab_size, hidden))
    for layer in range(shape.num_layers):
        for name, gguf_name, dims in (
            ("input_layernorm", "attn_norm", (hidden,)),
            ("self_attn.q_proj", "attn_q", (hidden, hidden)),
            ("self_attn.k_proj", "attn_k", (kv, hidden)),
            ("self_attn.v_proj", "attn_v", (kv, hidden)),
            ("self_attn.o_proj", "attn_output", (hidden, hidden)),
            ("post_attention_layernorm", "ffn_norm", (hidden,)),
            ("mlp.gate_proj", "ffn_gate", (inner, hidden)),
            ("mlp.up_proj", "ffn_up", (inner, hidden)),
            ("mlp.down_proj", "ffn_down", (hidden, inner)),
        ):
            yield Weight(f"model.layers.{layer}.{name}.weight", f"blk.{layer}.{gguf_name}.weight", dims)
    yield Weight("model.norm.weight", "output_norm.weight", (hidden,))
    yield Weight("lm_head.weight", "output.weight", (shape.vocab_size, hidden))


def prompt_ids(shape: Shape, rows: int, tokens: int, number: int = 0) -> np.ndarray:
    """int32 `(rows, tokens)`, the same for every engine; prompts of another number share no beginning, which an engine might remember."""
    return np.random.default_rng([tokens, number]).integers(3, min(1000, shape.vocab_size), (rows, tokens)).astype(np.int32)
