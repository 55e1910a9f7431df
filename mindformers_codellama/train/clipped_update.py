"""After the gradients: their global norm, clipping, and the update unless the norm is not finite."""

from __future__ import annotations

from functools import partial

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.kernels.training import gradient_norm_operator
from mindformers_codellama.model.kernel_pass import Gradient, RowGradient
from mindformers_codellama.train.optimizer import AdamUpdate

CLIP_EPS = 1e-6
"""Added to the norm before dividing (MindFormers' value)."""


class ClippedUpdate(nn.Cell):
    """Unscale, measure, clip and update; a norm that is not finite leaves every parameter as it was.

    Args:
        update: changes the parameters.
        max_grad_norm: bound of the global norm; None does not clip.
    """

    def __init__(self, update: AdamUpdate, max_grad_norm: float | None) -> None:
        super().__init__(auto_prefix=False)
        self.update = update
        self.clips = max_grad_norm is not None
        self.max_norm = ms.Tensor(max_grad_norm or 1.0, ms.float32)
        self.one = ms.Tensor(1.0, ms.float32)
        self.global_norm = GlobalNorm(update)
        self.guards = update.guards

    def construct(self, gradients: tuple[ms.Tensor, ...], unscale: ms.Tensor, coefficients: ms.Tensor) -> ms.Tensor:
        """Global norm of `gradients * unscale` (float32 scalar); `coefficients` as `AdamUpdate` takes them."""
        norm = self.global_norm(gradients, unscale)
        factor = unscale
        if self.clips:
            factor = unscale * clip_share(norm, self.max_norm, self.one)
        if self.guards:
            return ops.depend(norm, self.update(gradients, factor, coefficients, norm))
        if ops.isfinite(norm):
            norm = ops.depend(norm, self.update(gradients, factor, coefficients, norm))
        return norm

    def at_once(self, gradients: list[Gradient], unscale: float, coefficients: np.ndarray) -> float:
        """The same outside of a graph, by the kernels alone; needs `guards`. `gradients` is empty afterwards."""
        scale = ms.Tensor(unscale, ms.float32)
        norm = self.global_norm.gradient_norm(scale, *(item.summed() if isinstance(item, RowGradient) else item for item in gradients))
        factor = scale * clip_share(norm, self.max_norm, self.one) if self.clips else scale
        self.update.update_at_once(gradients, factor, coefficients, norm)
        return float(norm.asnumpy()[0])


class GlobalNorm(nn.Cell):
    """Root of the sum of squares of all gradients, unscaled; by the kernels where the update is theirs."""

    def __init__(self, update: AdamUpdate) -> None:
        super().__init__(auto_prefix=False)
        self.uses_kernels = update.uses_kernels
        self.map = ops.HyperMap()
        if self.uses_kernels:
            self.gradient_norm = gradient_norm_operator()

    def construct(self, gradients: tuple[ms.Tensor, ...], unscale: ms.Tensor) -> ms.Tensor:
        """float32 scalar; not finite when a gradient is not."""
        if self.uses_kernels:
            return ops.reshape(self.gradient_norm(unscale, *gradients), ())
        return ops.sqrt(ops.addn(self.map(partial(_square_sum, unscale), gradients)))


def _square_sum(unscale: ms.Tensor, gradient: ms.Tensor) -> ms.Tensor:
    return ops.reduce_sum(ops.square(ops.cast(gradient, ms.float32) * unscale))


def clip_share(norm: ms.Tensor, bound: ms.Tensor, one: ms.Tensor) -> ms.Tensor:
    """What gradients of this global norm are multiplied by, at most 1 (MindFormers' formula)."""
    return ops.minimum(bound / (ops.maximum(norm, bound) + CLIP_EPS), one)
