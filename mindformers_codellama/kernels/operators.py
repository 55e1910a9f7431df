"""MindSpore operators around the entry points of the kernel library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindspore import ops

from mindformers_codellama.kernels.library import library_path, load_library

Infer = Callable[..., Any]


def kernel_operator(name: str, out_shape: Infer, out_dtype: Infer) -> ops.Custom:
    """The operator of an entry point; works in graph mode and PyNative, on the CPU only.

    Args:
        name: of the entry point.
        out_shape: from the shapes of the inputs to that of the output, or a tuple of shapes.
        out_dtype: from the types of the inputs to that of the output, or a tuple of types.

    Raises:
        EnvironmentFault: the library cannot be used.
    """
    load_library()
    return ops.Custom(f"{library_path().resolve()}:{name}", out_shape=out_shape, out_dtype=out_dtype, func_type="aot")


def rms_norm_operator() -> ops.Custom:
    """RmsNorm(x float32 `(..., D)`, weight float32 `(D,)`, eps float32 `(1,)`) to y like x."""
    return kernel_operator("RmsNorm", lambda x, weight, eps: x, lambda x, weight, eps: x)
