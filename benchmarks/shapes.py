"""Model shapes of the benchmarks, and the bytes and operations one forward of them takes. Needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import asdict, dataclass

FORMS = ("float32", "bfloat16", "int8", "int4")
GGUF_NAMES = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0", "int4": "q4_0"}
"""Weight forms, and what llama.cpp calls them."""

ROPE_THETA = 1e4
NORM_EPS = 1e-5

OUR_BITS = {"float32": 32.0, "bfloat16": 16.0, "int8": 8 + 16 / 64, "int4": 4 + 16 / 64}
"""Bits per weight here, scales included: one bf16 scale per group of 64."""
GGUF_BITS = {"float32": 32.0, "bfloat16": 16.0, "int8": 8 + 16 / 32, "int4": 4 + 16 / 32}
"""Bits per weight in llama.cpp: one fp16 scale per block of 32."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one network, by the names `ModelConfig` has for them."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int

    def fields(self) -> dict[str, int]:
        return asdict(self)

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of one layer."""
        kv = self.hidden_size // self.num_heads * self.num_kv_heads
        return self.hidden_size * (2 * self.hidden_size + 2 * kv + 3 * self.intermediate_size)

    @property
    def read_weights(self) -> int:
        """Weights that every decode step reads: all matrices and the head; of the embedding only single rows are read."""
        return self.num_layers * self.layer_weights + self.vocab_size * self.hidden_size

    def decode_bytes(self, form: str, *, context: int, rows: int = 1, kv_bytes: int = 2) -> float:
        """Bytes one of our decode steps reads: weights once, keys and values of every row (`context` positions, `kv_bytes` each number)."""
        kv = 2 * self.num_layers * self.num_kv_heads * (self.hidden_size // self.num_heads) * kv_bytes
        return self.read_weights * OUR_BITS[form] / 8 + rows * context * kv

    def prefill_ops(self, tokens: int) -> float:
        """Multiplications and additions of reading a prompt: matrices for every token, attention under the diagonal, the head once."""
        attention = self.num_layers * 2 * tokens * tokens * self.hidden_size  # 2 products, 2 operations, half of the square
        return 2 * self.num_layers * self.layer_weights * tokens + attention + 2 * self.vocab_size * self.hidden_size


def gguf_file(shape: str, form: str) -> str:
    """Name of a model file for llama.cpp."""
    return f"{shape}-{GGUF_NAMES[form]}.gguf"


SOURCE = "source"
"""Form of a Hugging Face folder in bfloat16, of which our packed forms are made and which transformers reads."""


def our_folder(shape: str, form: str) -> str:
    """Name of a model folder for this package."""
    return f"{shape}-{form}"


SHAPES = {
    # a few seconds for everything: tests and --try
    "tiny": Shape(vocab_size=512, hidden_size=128, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=256),
    # stories15M of llama2.c: the cost of operators rather than of weights
    "15m": Shape(vocab_size=32000, hidden_size=288, num_layers=6, num_heads=6, num_kv_heads=6, intermediate_size=768),
    "125m": Shape(vocab_size=32016, hidden_size=768, num_layers=12, num_heads=12, num_kv_heads=12, intermediate_size=2048),
    # TinyLlama-1.1B with Code Llama's vocabulary
    "1.1b": Shape(vocab_size=32016, hidden_size=2048, num_layers=22, num_heads=32, num_kv_heads=4, intermediate_size=5632),
    # two layers and the head of Code Llama 7B
    "7b-layers": Shape(vocab_size=32016, hidden_size=4096, num_layers=2, num_heads=32, num_kv_heads=32, intermediate_size=11008),
}
