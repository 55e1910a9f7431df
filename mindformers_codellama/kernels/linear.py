"""Matrix products of linear layers with gradients, by the C++ kernels.

linear = KernelLinear(compute_dtype=ms.bfloat16)
y = linear(x, weight)  # x (..., I), weight (O, I) -> y (..., O)
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn

from mindformers_codellama.kernels.operators import kernel_operator

COMPUTE_NAMES = {ms.float32: "Float32", ms.bfloat16: "Bfloat16"}


class KernelLinear(nn.Cell):
    """y = x W^T, differentiable to x and W; graph mode and PyNative, CPU only.

    With compute_dtype bfloat16 both factors of every product are rounded to bfloat16 and summed in float32.

    Args:
        compute_dtype: float32 or bfloat16.
        out_dtype: of y; `compute_dtype` when None.

    Inputs:
        x: float32 or bfloat16 `(..., I)`.
        weight: float32 or bfloat16 `(O, I)`.

    Outputs:
        y `(..., O)`. The gradient of x has the type of x, that of the weight is float32.

    Raises:
        EnvironmentFault: the kernel library cannot be used.
    """

    def __init__(self, compute_dtype: Any = ms.float32, out_dtype: Any = None) -> None:
        super().__init__()
        name = COMPUTE_NAMES[compute_dtype]
        y_dtype = out_dtype or compute_dtype
        self.product = kernel_operator(f"Linear{name}", lambda x, weight: [*x[:-1], weight[0]], lambda x, weight: y_dtype)
        self.input_grad = kernel_operator(f"LinearInputGrad{name}", lambda dy, weight, x: x, lambda dy, weight, x: x)
        self.weight_grad = kernel_operator(f"LinearWeightGrad{name}", lambda dy, x: [dy[-1], x[-1]], lambda dy, x: ms.float32)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        """See the class."""
        return self.product(x, weight)

    def bprop(self, x: Tensor, weight: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and of the weight."""
        return self.input_grad(dout, weight, x), self.weight_grad(dout, x)
