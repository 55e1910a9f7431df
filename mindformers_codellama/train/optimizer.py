"""Adam with decoupled weight decay: moments in float32, updated in place, safe in graph mode.

One formula serves both optimizers, with scalars computed on the host in float64:

    m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g g;  p -= rate (m / (sqrt(v) + eps) + decay p)

`FP32StateAdamWeightDecay` (MindFormers) takes rate, eps and decay as configured: no bias correction.
`AdamW` folds the corrections c1 = 1 - beta1^t and c2 = 1 - beta2^t into them: rate lr sqrt(c2) / c1,
eps eps sqrt(c2), decay wd c1 / sqrt(c2), which is algebraically torch's and MindFormers' AdamW.
Parameters change by operators with side effects, never by `set_data`: that trains wrongly in graph mode.

With the C++ kernels a float32 weight and its moments are updated in one pass over them, by the same formula, unless its
moments are cut.

With the parallel optimizer (ZeRO stage 1, arXiv 1910.02054) a rank of the data axis has the moments of its rows of a
weight only, updates those rows, and takes the others from their ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindspore.ops import operations as P

from mindformers_codellama.errors import ConfigError
from mindformers_codellama.kernels.choose import kernels_in_use
from mindformers_codellama.kernels.training import adam_operator
from mindformers_codellama.model.kernel_pass import Gradient, RowGradient
from mindformers_codellama.runtime.context import current_device
from mindformers_codellama.train.reduce import GatherRows, RowCut, at

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
        decays: per parameter, whether weight decay touches it; `decayed` of these parameters when None.
        rows: moments that are cut over the data axis; their gradients come cut as well.
    """

    def __init__(
        self,
        parameters: Sequence[ms.Parameter],
        settings: AdamSettings,
        *,
        decays: Sequence[bool] | None = None,
        rows: RowCut | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        rows = rows or RowCut()
        self.settings = settings
        self.parameters = ms.ParameterTuple(parameters)
        self.count = len(parameters)
        self.cut = rows.cut or (False,) * self.count
        self.ranks, self.index = rows.axis.size, rows.axis.index
        shares = [self.ranks if cut else 1 for cut in self.cut]
        self.adam_m = ms.ParameterTuple([_zeros_like(p, "adam_m", share) for p, share in zip(parameters, shares, strict=True)])
        self.adam_v = ms.ParameterTuple([_zeros_like(p, "adam_v", share) for p, share in zip(parameters, shares, strict=True)])
        shapes = [tuple(p.shape) for p in parameters]
        self.decayed = decayed([p.name for p in parameters], shapes) if decays is None else tuple(decays)
        self.fused = tuple(p.dtype == ms.float32 and not cut for p, cut in zip(parameters, self.cut, strict=True))
        self.whole_at = tuple(i for i in range(self.count) if not self.cut[i])
        self.cut_at = tuple(i for i in range(self.count) if self.cut[i])
        if self.cut_at:
            self.gather = GatherRows(rows.axis, [shapes[i] for i in self.cut_at], rows.groups)
            self.map = ops.HyperMap()
            self.cut_parameters, self.cut_m, self.cut_v = (
                ms.ParameterTuple([every[i] for i in self.cut_at]) for every in (self.parameters, self.adam_m, self.adam_v)
            )
            self.cut_decayed = tuple(self.decayed[i] for i in self.cut_at)
        self.beta1 = ms.Tensor(settings.beta1, ms.float32)
        self.beta2 = ms.Tensor(settings.beta2, ms.float32)
        self.rest1 = ms.Tensor(1.0 - settings.beta1, ms.float32)
        self.rest2 = ms.Tensor(1.0 - settings.beta2, ms.float32)
        self.no_decay = ms.Tensor(0.0, ms.float32)
        self.fused_update = P.AdamWeightDecay()
        self.uses_kernels = current_device() == "CPU" and kernels_in_use() is not None and all(p.dtype == ms.float32 for p in parameters)
        self.guards = self.uses_kernels and not self.cut_at
        """Whether nothing changes when the norm is not finite, so that nobody has to ask before."""
        if self.uses_kernels:
            self.adam_step = adam_operator()
            self.betas = ms.Tensor([settings.beta1, settings.beta2], ms.float32)
            self.without_decay = ms.Tensor([1.0, 1.0, 0.0], ms.float32)

    def construct(self, gradients: tuple[ms.Tensor, ...], factor: ms.Tensor, coefficients: ms.Tensor, norm: ms.Tensor) -> ms.Tensor:
        """Apply `gradients * factor`.

        Args:
            gradients: one per parameter, any float type, same shapes; of cut ones this rank's rows.
            factor: float32 scalar that unscales and clips.
            coefficients: float32 `(3,)` of `AdamSettings.coefficients`.
            norm: float32 scalar of all gradients; unless `guards`, it must be finite.

        Returns:
            A scalar to depend on; its value has no meaning.
        """
        rate, eps, decay = coefficients[0], coefficients[1], coefficients[2]
        done = self.update_by_kernels(gradients, factor, coefficients, norm) if self.uses_kernels else factor
        for i in () if self.uses_kernels else self.whole_at:
            gradient = ops.cast(gradients[i], ms.float32) * factor
            scalars = (rate, eps, decay if self.decayed[i] else self.no_decay)
            if self.fused[i]:
                state = (self.parameters[i], self.adam_m[i], self.adam_v[i])
                done = ops.depend(done, self.fused_update(*state, rate, self.beta1, self.beta2, eps, scalars[2], gradient))
            else:
                betas = (self.beta1, self.rest1, self.beta2, self.rest2)
                weight = _plain_update(betas, scalars, self.parameters[i], self.adam_m[i], self.adam_v[i], gradient)
                done = ops.depend(done, ops.assign(self.parameters[i], weight))
        if self.cut_at:
            done = ops.depend(done, self.update_cut(gradients, factor, (rate, eps, decay)))
        return done

    def update_by_kernels(self, gradients: tuple[ms.Tensor, ...], factor: ms.Tensor, coefficients: ms.Tensor, norm: ms.Tensor) -> ms.Tensor:
        """Weights whose moments are whole, each in one pass."""
        rates = (ops.concat((coefficients * self.without_decay, self.betas)), ops.concat((coefficients, self.betas)))
        # every gradient first: then nothing reads the weights any more
        norm = ops.depend(norm, gradients)
        done = factor
        for i in self.whole_at:
            state = (self.parameters[i], self.adam_m[i], self.adam_v[i])
            done = ops.depend(done, self.adam_step(*state, gradients[i], rates[int(self.decayed[i])], factor, norm))
        return done

    def update_at_once(self, gradients: list[Gradient], factor: ms.Tensor, coefficients: np.ndarray, norm: ms.Tensor) -> None:
        """`update_by_kernels` outside of a graph, where operators run in the order they are called; needs `guards`.

        Every gradient is let go of after its update. That of the embedding comes last: its tensor takes the memory the head's
        had. (`ops.depend` of many tensors is avoided: outside of graphs MindSpore 2.10 copies them and keeps the copies.)
        """
        both = np.concatenate((coefficients, (self.settings.beta1, self.settings.beta2))).astype(np.float32)
        rates = (ms.Tensor(both * np.array([1, 1, 0, 1, 1], np.float32)), ms.Tensor(both))
        in_turn = sorted(range(self.count), key=lambda i: isinstance(gradients[i], RowGradient))
        held: list[Gradient | None] = list(gradients)
        gradients.clear()
        for i in in_turn:
            gradient, held[i] = held[i], None
            values = gradient.dense() if isinstance(gradient, RowGradient) else gradient
            del gradient
            self.adam_step(self.parameters[i], self.adam_m[i], self.adam_v[i], values, rates[int(self.decayed[i])], factor, norm)
            del values

    def update_cut(
        self, gradients: tuple[ms.Tensor, ...], factor: ms.Tensor, scalars: tuple[ms.Tensor, ms.Tensor, ms.Tensor]
    ) -> tuple[ms.Tensor, ...]:
        """Update this rank's rows of every cut weight, and take the others from their ranks.

        Tuples are made all at once, see `reduce`.
        """
        rate, eps, decay = scalars
        betas = (self.beta1, self.rest1, self.beta2, self.rest2)
        update = partial(_update_rows, (self.ranks, self.index), betas, (rate, eps, decay), (rate, eps, self.no_decay), factor)
        own = self.map(partial(at, gradients), self.cut_at)
        rows = self.map(update, self.cut_decayed, self.cut_parameters, self.cut_m, self.cut_v, own)
        return self.map(_assign, self.cut_parameters, self.gather(rows))


def _plain_update(
    betas: tuple[ms.Tensor, ...], scalars: tuple[ms.Tensor, ...], held: ms.Tensor, mean: ms.Tensor, square: ms.Tensor, gradient: ms.Tensor
) -> ms.Tensor:
    """Adam in plain operators, float32 inside, rounded once at the end: new values of `held`; the moments are assigned.

    For weights held in half precision, and for rows of a weight.
    """
    beta1, rest1, beta2, rest2 = betas
    rate, eps, decay = scalars
    weight = ops.cast(held, ms.float32)
    new_mean = mean * beta1 + gradient * rest1
    new_square = square * beta2 + ops.square(gradient) * rest2
    updated = ops.cast(weight - rate * (new_mean / (ops.sqrt(new_square) + eps) + decay * weight), held.dtype)
    return ops.depend(updated, (ops.assign(mean, new_mean), ops.assign(square, new_square)))


def _update_rows(  # noqa: PLR0913 - what all weights share, then one weight's
    place: tuple[int, int],
    betas: tuple[ms.Tensor, ...],
    decaying: tuple[ms.Tensor, ...],
    fixed: tuple[ms.Tensor, ...],
    factor: ms.Tensor,
    decays: bool,
    parameter: ms.Parameter,
    mean: ms.Parameter,
    square: ms.Parameter,
    gradient: ms.Tensor,
) -> ms.Tensor:
    """Rows `place` (number of ranks, this one) of a weight after its update, float32."""
    ranks, index = place
    count = parameter.shape[0] // ranks
    held = parameter[index * count : (index + 1) * count]
    scaled = ops.cast(gradient, ms.float32) * factor
    return ops.cast(_plain_update(betas, decaying if decays else fixed, held, mean, square, scaled), ms.float32)


def _assign(parameter: ms.Parameter, values: ms.Tensor) -> ms.Tensor:
    return ops.assign(parameter, ops.cast(values, parameter.dtype))


def _zeros_like(parameter: ms.Parameter, prefix: str, share: int) -> ms.Parameter:
    """A moment with a `share`-th of the parameter's rows."""
    shape = tuple(parameter.shape)
    zeros = ms.Tensor(np.zeros((shape[0] // share, *shape[1:]) if share > 1 else shape, np.float32))
    return ms.Parameter(zeros, name=f"{prefix}.{parameter.name}", requires_grad=False)
