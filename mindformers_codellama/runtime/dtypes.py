"""Names of floating types as the configuration writes them, MindSpore's and numpy's objects for them."""

from __future__ import annotations

import mindspore as ms
import ml_dtypes
import numpy as np

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CodeLlamaError, ConfigError

MINDSPORE_DTYPES: dict[str, ms.Type] = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}
NUMPY_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
UNSUPPORTED: dict[tuple[str, str], str] = {
    ("CPU", "bfloat16"): "MindSpore's CPU backend has no bfloat16 matrix product, gather or softmax",
}
"""(device, type) to the reason it is refused; measured on MindSpore 2.9 and 2.10."""


def mindspore_dtype(name: str) -> ms.Type:
    """`float32`, `float16` or `bfloat16` as MindSpore's type."""
    return MINDSPORE_DTYPES[name]


def numpy_dtype(name: str) -> np.dtype:
    """The same names as numpy's type; bfloat16 comes from ml_dtypes."""
    return NUMPY_DTYPES[name]


def dtype_name(dtype: ms.Type) -> str:
    """The configuration's name of a MindSpore floating type."""
    return next(name for name, known in MINDSPORE_DTYPES.items() if known == dtype)


def dtype_findings(config: ModelConfig, device: str, *, kernels: bool = False) -> list[CodeLlamaError]:
    """One finding for every dtype of `config` the device cannot compute with.

    Args:
        config: the model.
        device: `CPU` or `Ascend`.
        kernels: the C++ kernels are in use, which multiply bfloat16 on the CPU.
    """
    found: list[CodeLlamaError] = []
    for key in ("compute_dtype", "layernorm_compute_dtype", "softmax_compute_dtype", "rotary_dtype", "param_init_dtype"):
        reason = UNSUPPORTED.get((device, getattr(config, key)))
        if reason and not (kernels and key == "compute_dtype"):
            name = {"layernorm_compute_dtype": "layernorm_compute_type", "softmax_compute_dtype": "softmax_compute_type"}.get(key, key)
            name = "param_init_type" if key == "param_init_dtype" else name
            fix = f"write {name}: float32 (or float16) for device_target {device}."
            if key == "compute_dtype":
                fix = f"{fix[:-1]}, or compute with the kernels (kernels: auto)."
            found.append(ConfigError(f"model.model_config.{name}", f"got {getattr(config, key)!r}; {reason}.", fix=fix))
    return found
