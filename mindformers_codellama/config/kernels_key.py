"""The key `kernels`: what is asked for, and which models the C++ kernels can compute."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import ConfigError

KERNELS = ("auto", "off", "portable", "avx2", "avx512", "neon")
"""Values of the key."""
VARIABLE = "CODELLAMA_KERNELS"
"""Environment variable that wins over the key."""
COMPUTE_TYPES = ("float32", "bfloat16")
"""Types of `compute_dtype` the kernels compute with."""
FLOAT32_TYPES: Mapping[str, str] = {
    "layernorm_compute_dtype": "layernorm_compute_type",
    "softmax_compute_dtype": "softmax_compute_type",
    "rotary_dtype": "rotary_dtype",
    "param_init_dtype": "param_init_type",
}
"""What must be float32 for the kernels, whatever `compute_dtype` is; our name to the YAML's."""


def asked_for(key: str) -> tuple[str, str]:
    """Who decides (the key or the variable), and the word.

    Raises:
        ConfigError: a word that is none of `KERNELS`.
    """
    named = os.environ.get(VARIABLE, "").strip().lower()
    where, wanted = (VARIABLE, named) if named else ("kernels", key)
    if wanted not in KERNELS:
        raise ConfigError(where, f"got {wanted!r}.", fix=f"one of {', '.join(KERNELS)}.")
    return where, wanted


def fits_kernels(config: ModelConfig) -> bool:
    """Whether the kernels can train and evaluate a model: its types fit, and it has no biases (no Code Llama or Llama 2 has)."""
    others = all(getattr(config, key) == "float32" for key in FLOAT32_TYPES)
    return config.compute_dtype in COMPUTE_TYPES and others and not config.qkv_has_bias
