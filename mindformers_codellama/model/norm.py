"""Root-mean-square norm (arXiv 1910.07467)."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import initializer

from mindformers_codellama.model.kernels import has_operator


class RMSNorm(nn.Cell):
    """`x * rsqrt(mean(x^2) + eps) * weight`, computed in `norm_dtype`, returned in the type of x.

    The fused operator takes over where the device has it; both follow the same formula.
    Source: mindformers 1.0.2 layers.py, LlamaRMSNorm; transformers LlamaRMSNorm.
    """

    def __init__(self, size: int, *, eps: float, norm_dtype: ms.Type, param_dtype: ms.Type) -> None:
        super().__init__()
        self.eps = eps
        self.norm_dtype = norm_dtype
        self.weight = ms.Parameter(initializer("ones", (size,), param_dtype), name="weight")
        self.mean = ops.ReduceMean(keep_dims=True)
        self.fused = has_operator("RmsNorm")
        if self.fused:
            self.rms_norm = ops.RmsNorm(eps)

    def construct(self, x_BSD: ms.Tensor) -> ms.Tensor:
        """`(B, S, D)` to the same shape and type."""
        x = ops.cast(x_BSD, self.norm_dtype)
        weight = ops.cast(self.weight, self.norm_dtype)
        if self.fused:
            return ops.cast(self.rms_norm(x, weight)[0], x_BSD.dtype)
        y = x * ops.rsqrt(self.mean(x * x, -1) + self.eps)
        return ops.cast(y * weight, x_BSD.dtype)
