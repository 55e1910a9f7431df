"""Adam with decoupled weight decay: moments in float32, updated in place, safe in graph mode.

One formula serves both optimizers, with scalars computed on the host in float64:

    m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g g;  p -= rate (m / (sqrt(v) + eps) + decay p)

`FP32StateAdamWeightDecay` (MindFormers) takes rate, eps and decay as configured: no bias correction.
`AdamW` folds the corrections c1 = 1 - beta1^t and c2 = 1 - beta2^t into them: rate lr sqrt(c2) / c1,
eps eps sqrt(c2), decay wd c1 / sqrt(c2), which is algebraically torch's and MindFormers' AdamW.
Parameters change by operators with side effects, never by `set_data`: that trains wrongly in graph mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindspore.ops import operations as P

from mindformers_codellama.errors import ConfigError

OPTIMIZERS = ("FP32StateAdamWeightDecay", "AdamW")


@dataclass(frozen=True, kw_only=True)
class AdamSettings:
    """The `optimizer` section as numbers."""

    type: str = "FP32StateAdamWeightDecay"
    """One of `OPTIMIZERS`."""
    beta1: float = 0.9
    """Decay of the mean of gradients, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the mean of squared gradients, in [0, 1)."""
    eps: float = 1e-6
    """Added to the root of the second moment, above 0."""
    weight_decay: float = 0.0
    """Decoupled decay per unit of learning rate, at least 0."""

    def __post_init__(self) -> None:
        if self.type not in OPTIMIZERS:
            raise ConfigError("optimizer.type", f"got {self.type!r}.", fix=f"one of {', '.join(OPTIMIZERS)}.")
        for key in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, key) < 1.0:
                raise ConfigError(f"optimizer.{key}", f"got {getattr(self, key)}, must be in [0, 1).")

    def coefficients(self, updates: int, learning_rate: float) -> np.ndarray:
        """`(rate, eps, decay)`, float32 `(3,)`, of the update after `updates` earlier ones."""
        if self.type == "FP32StateAdamWeightDecay":
            return np.array([learning_rate, self.eps, self.weight_decay], np.float32)
        correction1 = 1.0 - self.beta1 ** (updates + 1)
        root2 = math.sqrt(1.0 - self.beta2 ** (updates + 1))
        return np.array([learning_rate * root2 / correction1, self.eps * root2, self.weight_decay * correction1 / root2], np.float32)


def decayed(names: Sequence[str], shapes: Sequence[tuple[int, ...]], *, no_decay_leak: bool = False) -> tuple[bool, ...]:
    """Which parameters weight decay touches: all but one-dimensional ones and biases.

    Args:
        names: parameter names in the network's order.
        shapes: their shapes, in the same order.
        no_decay_leak: as MindFormers 1.0 did, let a no-decay parameter switch decay off for every group that
            is created later. There are two groups, so this matters only when the very first parameter is
            not decayed; in Llama the embedding comes first and nothing changes.
    """
    kept = tuple(len(shape) != 1 and not name.endswith(".bias") for name, shape in zip(names, shapes, strict=True))
    if no_decay_leak and kept and not kept[0]:
        return (False,) * len(kept)
    return kept


class AdamUpdate(nn.Cell):
    """One update of every parameter, in place.

    Args:
        parameters: weights of any float type; each gets `adam_m.<name>` and `adam_v.<name>` in float32.
        settings: betas and the kind of optimizer.
        no_decay_leak: see `decayed`.
    """

    def __init__(self, parameters: Sequence[ms.Parameter], settings: AdamSettings, *, no_decay_leak: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings
        self.parameters = ms.ParameterTuple(parameters)
        self.adam_m = ms.ParameterTuple([_zeros_like(parameter, "adam_m") for parameter in parameters])
        self.adam_v = ms.ParameterTuple([_zeros_like(parameter, "adam_v") for parameter in parameters])
        names = [parameter.name for parameter in parameters]
        self.decayed = decayed(names, [tuple(p.shape) for p in parameters], no_decay_leak=no_decay_leak)
        self.fused = tuple(parameter.dtype == ms.float32 for parameter in parameters)
        self.count = len(names)
        self.beta1 = ms.Tensor(settings.beta1, ms.float32)
        self.beta2 = ms.Tensor(settings.beta2, ms.float32)
        self.rest1 = ms.Tensor(1.0 - settings.beta1, ms.float32)
        self.rest2 = ms.Tensor(1.0 - settings.beta2, ms.float32)
        self.no_decay = ms.Tensor(0.0, ms.float32)
        self.fused_update = P.AdamWeightDecay()

    def construct(self, gradients: tuple[ms.Tensor, ...], factor: ms.Tensor, coefficients: ms.Tensor) -> ms.Tensor:
        """Apply `gradients * factor`.

        Args:
            gradients: one per parameter, same shapes, any float type.
            factor: float32 scalar that unscales and clips.
            coefficients: float32 `(3,)` of `AdamSettings.coefficients`.

        Returns:
            A scalar to depend on; its value has no meaning.
        """
        rate, eps, decay = coefficients[0], coefficients[1], coefficients[2]
        done = factor
        for i in range(self.count):
            gradient = ops.cast(gradients[i], ms.float32) * factor
            parameter_decay = decay if self.decayed[i] else self.no_decay
            if self.fused[i]:
                state = (self.parameters[i], self.adam_m[i], self.adam_v[i])
                done = ops.depend(done, self.fused_update(*state, rate, self.beta1, self.beta2, eps, parameter_decay, gradient))
            else:
                done = ops.depend(done, self.plain_update(i, gradient, (rate, eps, parameter_decay)))
        return done

    def plain_update(self, i: int, gradient: ms.Tensor, scalars: tuple[ms.Tensor, ms.Tensor, ms.Tensor]) -> ms.Tensor:
        """The same in plain operators, for weights held in half precision: float32 inside, rounded once at the end."""
        rate, eps, decay = scalars
        parameter = self.parameters[i]
        weight = ops.cast(parameter, ms.float32)
        mean = self.adam_m[i] * self.beta1 + gradient * self.rest1
        square = self.adam_v[i] * self.beta2 + ops.square(gradient) * self.rest2
        updated = ops.cast(weight - rate * (mean / (ops.sqrt(square) + eps) + decay * weight), parameter.dtype)
        done = ops.depend(ops.assign(parameter, updated), ops.assign(self.adam_m[i], mean))
        return ops.depend(done, ops.assign(self.adam_v[i], square))


def _zeros_like(parameter: ms.Parameter, prefix: str) -> ms.Parameter:
    zeros = ms.Tensor(np.zeros(parameter.shape, np.float32))
    return ms.Parameter(zeros, name=f"{prefix}.{parameter.name}", requires_grad=False)
