"""The one table between MindFormers' keys of a model and our words.

The YAML and `LlamaConfig` keep MindFormers' spelling; nothing below `config` ever sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers_codellama.config.model_config import ModelConfig, round_intermediate_size

MODEL_KEYS: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "n_kv_heads": "num_kv_heads",
    "intermediate_size": "intermediate_size",
    "seq_length": "seq_length",
    "max_position_embedding": "max_position",
    "rms_norm_eps": "rms_norm_eps",
    "theta": "rope_theta",
    "extend_method": "extend_method",
    "scaling_factor": "scaling_factor",
    "qkv_has_bias": "qkv_has_bias",
    "compute_dtype": "compute_dtype",
    "layernorm_compute_type": "layernorm_compute_dtype",
    "softmax_compute_type": "softmax_compute_dtype",
    "rotary_dtype": "rotary_dtype",
    "param_init_type": "param_init_dtype",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
    "ignore_token_id": "ignore_token_id",
}
"""MindFormers' key to the field of `ModelConfig`; every field of `ModelConfig` is reached."""


def model_config_from(settings: Any) -> ModelConfig:
    """The network's configuration from an object with MindFormers' attributes.

    Null values mean what they mean in MindFormers: `n_kv_heads` is `num_heads`,
    `max_position_embedding` is `pretrain_seqlen` or else `seq_length`, `intermediate_size` is derived.

    Args:
        settings: `LlamaSettings`, or the mutable `LlamaConfig` of `mindformers_api`.

    Raises:
        ConfigError: sizes that do not fit each other, or `Findings` of several.
    """
    values = {ours: getattr(settings, theirs) for theirs, ours in MODEL_KEYS.items()}
    if values["num_kv_heads"] is None:
        values["num_kv_heads"] = values["num_heads"]
    if values["max_position"] is None:
        values["max_position"] = getattr(settings, "pretrain_seqlen", None) or values["seq_length"]
    if values["intermediate_size"] is None:
        values["intermediate_size"] = round_intermediate_size(values["hidden_size"], settings.multiple_of, settings.ffn_dim_multiplier)
    ends = values["eos_token_id"]
    values["eos_token_id"] = ends if isinstance(ends, int) else ends[0]
    return ModelConfig(**values)
