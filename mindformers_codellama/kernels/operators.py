"""MindSpore operators around the entry points of the kernel library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindspore import ops
from mindspore.ops import signature

from mindformers_codellama.kernels.library import library_path, load_library

Infer = Callable[..., Any]


def kernel_operator(name: str, out_shape: Infer, out_dtype: Infer, *, kind: object = None, writes: bool = False) -> ops.Custom:
    """The operator of an entry point; works in graph mode and PyNative, on the CPU only.

    Args:
        name: of the entry point.
        out_shape: from the shapes of the inputs to that of the output, or a tuple of shapes.
        out_dtype: from the types of the inputs to that of the output, or a tuple of types.
        kind: what shapes and types of the output depend on besides those of the inputs. Outside of graphs MindSpore remembers
            them by entry point and inputs, and would give one operator what it found for another.
        writes: it changes inputs in place. A graph then keeps every call, in its order among the readers of these tensors;
            calls of an operator it takes for a pure one are left out when nobody needs their output, and equal ones are merged.

    Raises:
        EnvironmentFault: the library cannot be used.
    """
    load_library()
    operator = ops.Custom(f"{library_path().resolve()}:{name}", out_shape=out_shape, out_dtype=out_dtype, func_type="aot")
    if kind is not None:
        operator.add_prim_attr("kind", str(kind))
    if writes:
        operator.add_prim_attr("side_effect_mem", True)
    return operator


def writing_operator(name: str, out_shape: Infer, out_dtype: Infer, *, written: int, read: int) -> ops.Custom:
    """The operator of an entry point that changes parameters, its first inputs, in place.

    MindSpore is told which: it then hands over the parameters themselves, never copies. (Else it may hand over a copy of a
    parameter, and what is written there is lost.)

    Args:
        name: of the entry point.
        out_shape: as of `kernel_operator`.
        out_dtype: likewise.
        written: first inputs that are changed; parameters.
        read: inputs behind them.

    Raises:
        EnvironmentFault: the library cannot be used.
    """
    operator = kernel_operator(name, out_shape, out_dtype, writes=True)
    rights = [signature.sig_rw.RW_WRITE] * written + [signature.sig_rw.RW_READ] * read
    operator.set_signatures(tuple(signature.make_sig(f"input{i}", right) for i, right in enumerate(rights)))
    return operator


def rms_norm_operator() -> ops.Custom:
    """RmsNorm(x float32 `(..., D)`, weight float32 `(D,)`, eps float32 `(1,)`) to y like x."""
    return kernel_operator("RmsNorm", lambda x, weight, eps: x, lambda x, weight, eps: x)
