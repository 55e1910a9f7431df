"""`ModelConfig`: every size and number that decides what the network computes.

Shape letters of the whole project: B batch, S query positions, T key positions, D hidden,
N query heads, K key/value heads, G = N / K, H head, F intermediate, V vocabulary, L layers.
The YAML spells these keys as MindFormers does; `config/dialect.py` holds the one table.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindformers_codellama.errors import CodeLlamaError, ConfigError, raise_all

DTYPES = ("float32", "float16", "bfloat16")
EXTEND_METHODS = ("None", "PI", "NTK")


def round_intermediate_size(hidden_size: int, multiple_of: int, ffn_dim_multiplier: float | None) -> int:
    """F as MindFormers and Meta derive it when `intermediate_size` is not given.

    h = 4 D; times (multiplier + 0.01) if set; then 2/3 of it; rounded up to `multiple_of`.
    Source: mindformers 1.0.2 llama_layer.py, LlamaFeedForward. 4096/256/None gives 11008.
    """
    size = 4 * hidden_size
    if ffn_dim_multiplier is not None:
        size = int((ffn_dim_multiplier + 0.01) * size)
    size = int(2 * size / 3)
    return multiple_of * ((size + multiple_of - 1) // multiple_of)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One Llama-family decoder. Frozen; sizes are checked at birth, all findings at once."""

    vocab_size: int = 32000
    """V, rows of the embedding and of the output head."""
    hidden_size: int = 4096
    """D, residual width."""
    num_layers: int = 32
    """L, decoder blocks."""
    num_heads: int = 32
    """N, query heads; `hidden_size / num_heads` is H."""
    num_kv_heads: int = 32
    """K, key/value heads; K < N is grouped-query attention (34B has 8 for 64)."""
    intermediate_size: int = 11008
    """F, width of the gated feed-forward."""
    seq_length: int = 2048
    """Training row length, and the longest prompt plus answer in generation, in tokens."""
    max_position: int = 2048
    """Positions the weights were trained for; longer contexts need `extend_method`."""
    rms_norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    rope_theta: float = 1e4
    """Base of the rotary frequencies; 1e6 for Code Llama, 1e4 for Llama 2 (arXiv 2308.12950)."""
    extend_method: str = "None"
    """`None`, `PI` (positions divided by `scaling_factor`) or `NTK` (theta times it)."""
    scaling_factor: float = 1.0
    """Context extension factor, at least 1."""
    qkv_has_bias: bool = False
    """Add biases to the q, k, v products (no Code Llama or Llama 2 has them)."""
    compute_dtype: str = "float32"
    """Type of matrix products and of the KV cache."""
    layernorm_compute_dtype: str = "float32"
    """Type inside RMSNorm."""
    softmax_compute_dtype: str = "float32"
    """Type of the attention softmax."""
    rotary_dtype: str = "float32"
    """Type of the rotary angles and of the rotation."""
    param_init_dtype: str = "float32"
    """Type the parameters are held in."""
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0
    ignore_token_id: int = -100
    """Label value that takes no part in the loss."""

    @property
    def head_dim(self) -> int:
        """H."""
        return self.hidden_size // self.num_heads

    def __post_init__(self) -> None:
        raise_all(self._findings())

    def _findings(self) -> list[CodeLlamaError]:
        found: list[CodeLlamaError] = []

        def refuse(key: str, problem: str, fix: str = "") -> None:
            found.append(ConfigError(f"model.model_config.{key}", problem, fix=fix))

        sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "seq_length", "max_position")
        for key in sizes:
            if getattr(self, key) < 1:
                refuse(key, f"got {getattr(self, key)}, must be at least 1.")
        if found:
            return found
        if self.hidden_size % self.num_heads:
            refuse("num_heads", f"got {self.num_heads}, must divide hidden_size ({self.hidden_size}).")
        elif self.head_dim % 2:
            refuse("num_heads", f"gives a head of {self.head_dim}, rotary embedding needs an even one.")
        if self.num_heads % self.num_kv_heads:
            fix = "use 8 for 34B and 70B, the same as num_heads for 7B and 13B."
            refuse("n_kv_heads", f"got {self.num_kv_heads}, must divide num_heads ({self.num_heads}).", fix)
        if self.extend_method not in EXTEND_METHODS:
            refuse("extend_method", f"got {self.extend_method!r}.", f"one of {', '.join(EXTEND_METHODS)}.")
        if self.scaling_factor < 1:
            refuse("scaling_factor", f"got {self.scaling_factor}, must be at least 1.")
        for key in ("compute_dtype", "layernorm_compute_dtype", "softmax_compute_dtype", "rotary_dtype", "param_init_dtype"):
            if getattr(self, key) not in DTYPES:
                refuse(key, f"got {getattr(self, key)!r}.", f"one of {', '.join(DTYPES)}.")
        return found
