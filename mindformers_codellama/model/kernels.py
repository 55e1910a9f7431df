"""Which fused operators the current device has; everything else is written with plain ones.

Measured: the CPU backend registers none of these (MindSpore 2.9 and 2.10). On Ascend they exist by
MindSpore's documentation; not run on Ascend.
"""

from __future__ import annotations

from mindformers_codellama.runtime.context import current_device

FUSED_OPERATORS: dict[str, tuple[str, ...]] = {
    "RmsNorm": ("Ascend",),
}


def has_operator(name: str) -> bool:
    """True when the current device registers the fused operator `name`; unknown names are a KeyError."""
    return current_device() in FUSED_OPERATORS[name]
