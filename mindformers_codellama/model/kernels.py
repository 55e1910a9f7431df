"""Which fused operators the current device has, and whether a network computes with the C++ kernels.

Measured: the CPU backend registers none of MindSpore's fused operators (MindSpore 2.9 and 2.10). On Ascend they exist by
MindSpore's documentation; not run on Ascend. The kernels are this package's own, for the CPU (`csrc/`).
"""

from __future__ import annotations

import mindspore as ms

from mindformers_codellama.config.kernels_key import FLOAT32_TYPES, fits_kernels
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CodeLlamaError, ConfigError
from mindformers_codellama.kernels.choose import kernels_in_use
from mindformers_codellama.runtime.context import current_device
from mindformers_codellama.runtime.dtypes import dtype_findings, mindspore_dtype

FUSED_OPERATORS: dict[str, tuple[str, ...]] = {
    "RmsNorm": ("Ascend",),
}


def has_operator(name: str) -> bool:
    """True when the current device registers the fused operator `name`; unknown names are a KeyError."""
    return current_device() in FUSED_OPERATORS[name]


def uses_kernels(config: ModelConfig) -> bool:
    """Whether Cells of this model that are built now compute with the C++ kernels: they are there, and fit it."""
    return fits_kernels(config) and current_device() == "CPU" and kernels_in_use() is not None


def stream_dtype(config: ModelConfig) -> ms.Type:
    """Type of the residual stream of such a network: float32 with the kernels, else the compute type."""
    return ms.float32 if uses_kernels(config) else mindspore_dtype(config.compute_dtype)


def kernel_findings(config: ModelConfig) -> list[CodeLlamaError]:
    """One finding for every type that a network on this device cannot compute with, the kernels taken into account."""
    device = current_device()
    found = dtype_findings(config, device, kernels=device == "CPU" and kernels_in_use() is not None)
    if device == "CPU" and config.compute_dtype == "bfloat16" and config.qkv_has_bias:
        problem = "got True; the kernels, which bfloat16 needs on the CPU, have no biases."
        found.append(ConfigError("model.model_config.qkv_has_bias", problem, fix="write compute_dtype: float32."))
    if found or device != "CPU" or config.compute_dtype != "bfloat16":
        return found
    return [
        ConfigError(
            f"model.model_config.{name}",
            f"got {getattr(config, key)!r}; with compute_dtype: bfloat16 on the CPU only float32 is possible.",
            fix="write float32.",
        )
        for key, name in FLOAT32_TYPES.items()
        if getattr(config, key) != "float32"
    ]
