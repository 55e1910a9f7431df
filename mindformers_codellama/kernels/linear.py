"""Matrix products of linear layers with gradients, by the C++ kernels: `KernelLinear(ms.bfloat16)(x, weight)`."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindformers_codellama.kernels.operators import kernel_operator

COMPUTE_NAMES = {ms.float32: "Float32", ms.bfloat16: "Bfloat16"}
"""Type of the factors of a product to the end of an entry point's name."""


def linear_operator(compute_dtype: ms.Type, out_dtype: ms.Type) -> ops.Custom:
    """`(x (..., I), weight (O, I))` to y = x W^T `(..., O)`."""
    name = f"Linear{COMPUTE_NAMES[compute_dtype]}"
    return kernel_operator(name, lambda x, weight: [*x[:-1], weight[0]], lambda x, weight: out_dtype, kind=out_dtype)


def gated_linear_operator(compute_dtype: ms.Type, out_dtype: ms.Type) -> ops.Custom:
    """`(a (..., I), b (..., I), weight (O, I))` to (silu(a) * b) W^T `(..., O)`."""
    name = f"GatedLinear{COMPUTE_NAMES[compute_dtype]}"
    return kernel_operator(name, lambda a, b, weight: [*a[:-1], weight[0]], lambda a, b, weight: out_dtype, kind=out_dtype)


def input_grad_operator(compute_dtype: ms.Type) -> ops.Custom:
    """`(dy (..., O), weight (O, I), x)` to dx = dy W, in shape and type of x (whose values are not read).

    Several linears of one input: `(dy1, weight1, dy2, weight2, ..., x)` to the sum, made in float32.
    """
    return kernel_operator(f"LinearInputGrad{COMPUTE_NAMES[compute_dtype]}", lambda *args: args[-1], lambda *args: args[-1])


def weight_grad_operator(compute_dtype: ms.Type) -> ops.Custom:
    """`(dy (..., O), x (..., I))` to dW = dy^T x `(O, I)`, float32."""
    return kernel_operator(f"LinearWeightGrad{COMPUTE_NAMES[compute_dtype]}", lambda dy, x: [dy[-1], x[-1]], lambda dy, x: ms.float32)


def gated_weight_grad_operator(compute_dtype: ms.Type) -> ops.Custom:
    """`(dy (..., O), a (..., I), b (..., I))` to dy^T (silu(a) * b) `(O, I)`, float32."""
    return kernel_operator(
        f"GatedLinearWeightGrad{COMPUTE_NAMES[compute_dtype]}", lambda dy, a, b: [dy[-1], a[-1]], lambda dy, a, b: ms.float32
    )


class KernelLinear(nn.Cell):
    """y = x W^T, differentiable to x and W; graph mode and PyNative, CPU only.

    With compute_dtype bfloat16 both factors of every product are rounded to bfloat16; sums are float32.

    Args:
        compute_dtype: float32 or bfloat16.
        out_dtype: of y; `compute_dtype` when None.

    Raises:
        EnvironmentFault: the kernel library cannot be used.
    """

    def __init__(self, compute_dtype: Any = ms.float32, out_dtype: Any = None) -> None:
        super().__init__()
        self.product = linear_operator(compute_dtype, out_dtype or compute_dtype)
        self.input_grad = input_grad_operator(compute_dtype)
        self.weight_grad = weight_grad_operator(compute_dtype)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """X `(..., I)` and the weight `(O, I)`, each float32 or bfloat16, to `(..., O)` in the output's type."""
        return self.product(x, weight)

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x, in its type, and of the weight, float32."""
        return self.input_grad(dout, weight, x), self.weight_grad(dout, x)
