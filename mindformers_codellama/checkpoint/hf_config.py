"""`config.json` of Hugging Face <-> `ModelConfig`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, raise_all

_SAME = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position",
    "rms_norm_eps": "rms_norm_eps",
}
"""Their key -> ours."""

_OPTIONAL = ("max_position_embeddings", "rms_norm_eps")


def read_hf_config(path: Path) -> tuple[ModelConfig, bool]:
    """Configuration of a Hugging Face directory, and whether its head is tied to the embedding.

    `rope_theta` is read at top level and in `rope_parameters` (transformers 5); linear scaling becomes `PI`.

    Raises:
        CheckpointError: unreadable, or a model this network cannot compute; all reasons at once.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise CheckpointError(path, f"is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(path, "is not a JSON object.")
    raise_all(_wrong_kinds(path, values))
    raise_all(_refusals(path, values))
    return _model_config(values), bool(values.get("tie_word_embeddings", False))


def hf_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """`config.json` that transformers 4 and 5 both read as this model.

    NTK extension multiplies the rotary base, so it is written as that base; PI is `linear` scaling.

    Raises:
        CheckpointError: the model has biases that Hugging Face's Llama cannot have alone.
    """
    if config.qkv_has_bias:
        raise CheckpointError("model.model_config.qkv_has_bias", "Hugging Face's Llama has no bias on q, k, v alone.")
    theta = config.rope_theta * (config.scaling_factor if config.extend_method == "NTK" else 1.0)
    linear = config.extend_method == "PI" and config.scaling_factor != 1.0
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{theirs: getattr(config, ours) for theirs, ours in _SAME.items()},
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "rope_theta": theta,
        "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": config.scaling_factor} if linear else None,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": dtype,
    }


def generation_config(config: ModelConfig) -> dict[str, Any]:
    """`generation_config.json` beside it."""
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {"_from_model_config": True, **{key: getattr(config, key) for key in keys}}


def end_token_ids(folder: Path) -> tuple[int, ...]:
    """Ids that end an answer: of `generation_config.json` (70B Instruct has two), else of `config.json`; empty when neither says any."""
    for name in ("generation_config.json", "config.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        ids = tuple(token for token in (found if isinstance(found, list) else [found]) if _is_whole(token) and token >= 0)
        if ids:
            return ids
    return ()


def _model_config(values: Mapping[str, Any]) -> ModelConfig:
    rope = _rope(values)
    sizes: dict[str, Any] = {ours: values[theirs] for theirs, ours in _SAME.items() if values.get(theirs) is not None}
    sizes["num_kv_heads"] = values.get("num_key_value_heads") or values["num_attention_heads"]
    sizes["seq_length"] = sizes.get("max_position", 2048)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        given = values.get(key)
        given = given[0] if isinstance(given, list) and given else given
        if isinstance(given, int) and given >= 0:
            sizes[key] = given
    if rope.get("factor") is not None:
        sizes |= {"extend_method": "PI", "scaling_factor": float(rope["factor"])}
    return ModelConfig(**sizes, rope_theta=float(rope.get("rope_theta", 1e4)))


def _rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings from wherever this transformers version put them."""
    rope = dict(values.get("rope_scaling") or {}) | dict(values.get("rope_parameters") or {})
    rope.setdefault("rope_theta", values.get("rope_theta") or 1e4)
    return rope


def _wrong_kinds(path: Path, values: Mapping[str, Any]) -> list[CodeLlamaError]:
    """Values that are missing or not what their key holds."""
    found: list[CodeLlamaError] = []

    def check(key: str, value: Any, holds: Callable[[Any], bool], words: str) -> None:
        if value is not None and not holds(value):
            found.append(CheckpointError(f"{path}: {key}", f"is {value!r}, not {words}."))

    for key in _SAME:
        if values.get(key) is None and key not in _OPTIONAL:
            found.append(CheckpointError(f"{path}: {key}", "is missing."))
    for key in (*_SAME, "num_key_value_heads", "head_dim"):
        if key != "rms_norm_eps":
            check(key, values.get(key), lambda value: _is_whole(value) and value > 0, "a whole number above 0")
    for key in ("rms_norm_eps", "rope_theta"):
        check(key, values.get(key), _is_number, "a number")
    for key in ("rope_scaling", "rope_parameters"):
        inside = values.get(key)
        check(key, inside, lambda value: isinstance(value, dict), "a JSON object")
        for part in ("factor", "rope_theta"):
            check(f"{key}.{part}", inside.get(part) if isinstance(inside, dict) else None, _is_number, "a number")
    return found


def _refusals(path: Path, values: Mapping[str, Any]) -> list[CodeLlamaError]:
    """What this network cannot compute; the values are of the right kinds."""
    found: list[CodeLlamaError] = []

    def refuse(key: str, problem: str) -> None:
        found.append(CheckpointError(f"{path}: {key}", problem))

    if values.get("model_type", "llama") != "llama":
        refuse("model_type", f"is {values['model_type']!r}; only llama (Llama 2, Code Llama) is supported.")
    if values.get("hidden_act", "silu") != "silu":
        refuse("hidden_act", f"is {values['hidden_act']!r}; only silu is supported.")
    for key in ("attention_bias", "mlp_bias"):
        if values.get(key):
            refuse(key, "is true; Llama 2 and Code Llama have no biases, and this network has none.")
    if values.get("head_dim") not in (None, values["hidden_size"] // values["num_attention_heads"]):
        refuse("head_dim", f"is {values['head_dim']}, not hidden_size / num_attention_heads.")
    rope = _rope(values)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear"):
        refuse("rope_scaling", f"is {kind!r}; only linear scaling is supported.")
    return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
