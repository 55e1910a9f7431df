"""Model shapes that the benchmarks share, so that ours and the peers run the same sizes."""

from __future__ import annotations

# name: (V, D, L, N, K, F). 15m is the stories15M shape of llama2.c; 125m is the usual small GPT size in Llama form.
SHAPES = {
    "tiny": (2048, 192, 4, 6, 2, 512),
    "15m": (32000, 288, 6, 6, 6, 768),
    "125m": (32000, 768, 12, 12, 12, 2048),
}


def shape_fields(name: str) -> dict[str, int]:
    """The shape by field name, as both `ModelConfig` and `transformers.LlamaConfig` understand most of them."""
    keys = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size")
    return dict(zip(keys, SHAPES[name], strict=True))
