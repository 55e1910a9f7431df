"""Names and shapes of the parameters of a configuration, without building it (and without MindSpore)."""

from __future__ import annotations

import math

from mindformers_codellama.config.model_config import ModelConfig


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Checkpoint name to shape, in the order `LlamaNetwork` registers them.

    Source of the names: mindformers 1.0.2, executed. Matrices are `(out, in)`.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.tok_embeddings.embedding_weight": (config.vocab_size, hidden)}
    for index in range(config.num_layers):
        layer = f"model.layers.{index}"
        shapes[f"{layer}.attention_norm.weight"] = (hidden,)
        for name, rows in (("wq", width), ("wk", kv_width), ("wv", kv_width)):
            shapes[f"{layer}.attention.{name}.weight"] = (rows, hidden)
            if config.qkv_has_bias:
                shapes[f"{layer}.attention.{name}.bias"] = (rows,)
        shapes[f"{layer}.attention.wo.weight"] = (hidden, width)
        shapes[f"{layer}.ffn_norm.weight"] = (hidden,)
        shapes[f"{layer}.feed_forward.w1.weight"] = (inner, hidden)
        shapes[f"{layer}.feed_forward.w2.weight"] = (hidden, inner)
        shapes[f"{layer}.feed_forward.w3.weight"] = (inner, hidden)
    shapes["model.norm_out.weight"] = (hidden,)
    shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


def parameter_count(config: ModelConfig) -> int:
    """Number of trainable scalars."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())
