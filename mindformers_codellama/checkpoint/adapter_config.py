"""`adapter_config.json` of PEFT: what it may ask for, read strictly, and what we write.

Source: peft 0.21 tuners/lora/config.py, and how its layers use it (tuners/lora/layer.py, utils/other.py `get_pattern_key`).
Every key is either used, known to change nothing for files that hold A and B, or refused with the reason when it asks for
something; one this list does not know is refused unless it is empty.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import CheckpointError, CodeLlamaError, raise_all

CONFIG_FILE = "adapter_config.json"

WITHOUT_EFFECT = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "peft_version", "revision", "inference_mode", "task_type", "runtime_config"),
        *("lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # the tensors say which
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
        *("megatron_core", "ensure_weight_tying"),
    }
)
"""Keys that matter in training or elsewhere only."""
REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA scales the rows of the merged weight, which is not computed here.",
    "bias": "trained biases are not read: Llama 2 and Code Llama have none.",
    "lora_bias": "a bias on B is not computed.",
    "modules_to_save": "whole trained modules beside the adapter are not read; merge them into the model first.",
    "trainable_token_indices": "trained embedding rows are not read.",
    "fan_in_fan_out": "weights stored as (in, out) are those of GPT-2.",
    "megatron_config": "Megatron's parallel layers are not read.",
    "layer_replication": "repeated layers make another model.",
    "target_parameters": "adapters of bare parameters (experts) are not computed.",
    "use_qalora": "QALoRA pools the inputs of A, which is not computed.",
    "alora_invocation_tokens": "an activated LoRA begins in the middle of a text, which is not computed.",
    "use_bdlora": "block-diagonal LoRA is not computed.",
    "kasa_config": "KaSA multiplies by singular values between B and A, which is not computed.",
    "monteclora_config": "MonteCLoRA draws its weights, which is not computed.",
    "arrow_config": "Arrow routes between adapters, which is not computed.",
}
"""Keys whose non-empty value is refused, and why."""
NOTHING: tuple[object, ...] = (None, False, "none", [], {}, "")
"""Values that ask for nothing."""
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of `init_lora_weights` whose adapters belong to a changed base model."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """How strong every pair of an adapter is."""

    rank: int
    """r, unless `rank_pattern` says another for a module."""
    alpha: float
    """The product B A is multiplied by alpha / r."""
    use_rslora: bool = False
    """By alpha / sqrt(r) instead (arXiv 2312.03732)."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """End of a module's name (a regular expression) to its rank."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    """Likewise to its alpha."""
    dropout: float = 0.0
    """Of the training; without effect afterwards."""
    target_modules: tuple[str, ...] = ()
    """Last parts of the names of modules that have an adapter."""
    base_model: str = ""
    """Name or path of the model it was trained on."""

    def rank_of(self, module: str) -> int:
        """The rank of a module, by its full name in Hugging Face's words."""
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What B A of a module is multiplied by."""
        rank, alpha = self.rank_of(module), _by_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def read_adapter_config(path: Path) -> AdapterConfig:
    """The file's settings.

    Raises:
        CheckpointError: missing, no JSON, of another method than LoRA, or asking for what is not computed; all at once.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fix = "give the directory of an adapter: adapter_config.json and adapter_model.safetensors."
        raise CheckpointError(path, f"cannot be read: {error.strerror}.", fix=fix) from error
    except ValueError as error:
        raise CheckpointError(path, f"is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(path, "is not a JSON object.")
    raise_all(_findings(path, values))
    targets = values.get("target_modules") or ()
    return AdapterConfig(
        rank=values["r"],
        alpha=float(values.get("lora_alpha", 8)),
        use_rslora=bool(values.get("use_rslora")),
        rank_pattern=dict(values.get("rank_pattern") or {}),
        alpha_pattern=dict(values.get("alpha_pattern") or {}),
        dropout=float(values.get("lora_dropout") or 0.0),
        target_modules=(targets,) if isinstance(targets, str) else tuple(map(str, targets)),
        base_model=str(values.get("base_model_name_or_path") or ""),
    )


def adapter_config_text(config: AdapterConfig) -> str:
    """The same as JSON that `peft.PeftModel.from_pretrained` reads."""
    alpha = int(config.alpha) if float(config.alpha).is_integer() else config.alpha
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.base_model or None,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(config.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
        "use_dora": False,
        "use_rslora": config.use_rslora,
        "lora_bias": False,
    }
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _findings(path: Path, values: Mapping[str, Any]) -> list[CodeLlamaError]:
    found: list[CodeLlamaError] = []

    def refuse(key: str, problem: str, fix: str = "") -> None:
        found.append(CheckpointError(f"{path}: {key}", problem, fix=fix))

    if values.get("peft_type") != "LORA":
        refuse("peft_type", f"is {values.get('peft_type')!r}; only LORA is supported.")
        return found
    if not _is_whole(values.get("r")) or values["r"] < 1:
        refuse("r", f"is {values.get('r')!r}, not a whole number of at least 1.")
    if not _is_number(values.get("lora_alpha", 8)):
        refuse("lora_alpha", f"is {values['lora_alpha']!r}, not a finite number.")
    for key, is_right in (("rank_pattern", _is_whole), ("alpha_pattern", _is_number)):
        pattern = values.get(key) or {}
        if not isinstance(pattern, dict) or not all(map(is_right, pattern.values())):
            refuse(key, "is not an object of module names and numbers.")
    if values.get("task_type") not in (None, "CAUSAL_LM"):
        refuse("task_type", f"is {values['task_type']!r}; only CAUSAL_LM is supported.")
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        problem = f"is {start!r}: such an adapter belongs to a base model that was changed with it."
        refuse("init_lora_weights", problem, "save it with path_initial_model_for_weight_conversion in PEFT.")
    used = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
    for key, value in values.items():
        if key in used or key in WITHOUT_EFFECT or any(value == item and type(value) is type(item) for item in NOTHING):
            continue
        why = REFUSED.get(key, "it is unknown here, so what it changes would be left out.")
        refuse(key, f"is {value!r}, which is not available: {why}")
    return found


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that a module's name ends with, as PEFT looks it up."""
    return next((value for key, value in patterns.items() if _ends_with(key, module)), default)


def _ends_with(pattern: str, module: str) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        return False


def first_of(names: Iterable[str], most: int = 3) -> str:
    """Some names for a message."""
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
