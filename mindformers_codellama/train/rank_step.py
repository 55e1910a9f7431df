"""One training step of a rank among others: gradients added over the axes, one norm, one loss and one decision for all.

What every rank must agree on travels in one small sum over all ranks: the squares of the gradients (each counted
once, wherever copies of it are), the loss, and whether somebody asked to stop. A gradient that is not finite anywhere makes
the norm not finite everywhere, so all ranks skip the update together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.kernels.training import gradient_norm_operator
from mindformers_codellama.parallel.comm import Axis
from mindformers_codellama.parallel.regions import AddRanks
from mindformers_codellama.runtime.memory import give_back
from mindformers_codellama.train.clipped_update import clip_share
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamUpdate
from mindformers_codellama.train.reduce import SumGradients, at
from mindformers_codellama.train.step import COLUMNS, Gradients, MicroStep, PartGradients, StepResult


class RankUpdate(nn.Cell):
    """`clipped_update.ClippedUpdate` over ranks.

    Args:
        update: changes the parameters.
        sums: brings the gradients together.
        counted: per parameter, whether this rank counts its square in the norm; of copies one rank does.
        counts_loss: whether this rank counts its loss.
        world: all ranks.
        max_grad_norm: bound of the global norm; None does not clip.
    """

    def __init__(  # noqa: PLR0913 - one value per fact, all named
        self,
        update: AdamUpdate,
        *,
        sums: SumGradients,
        counted: Sequence[bool],
        counts_loss: bool,
        world: Axis,
        max_grad_norm: float | None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.update = update
        self.sums = sums
        self.counted = tuple(float(item) for item in counted)
        self.map = ops.HyperMap()
        self.counted_at = tuple(i for i, item in enumerate(counted) if item)
        self.norms_by_kernels = update.uses_kernels and bool(self.counted_at)
        if self.norms_by_kernels:
            self.gradient_norm = gradient_norm_operator()
        self.guards = update.guards
        self.counts_loss = counts_loss
        self.add = AddRanks(world)
        self.clips = max_grad_norm is not None
        self.max_norm = ms.Tensor(max_grad_norm or 1.0, ms.float32)
        self.one = ms.Tensor(1.0, ms.float32)
        self.zero = ms.Tensor(0.0, ms.float32)

    def construct(
        self, gradients: tuple[ms.Tensor, ...], unscale: ms.Tensor, coefficients: ms.Tensor, loss: ms.Tensor, stop: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """Update, unless the norm is not finite.

        Args:
            gradients: of this rank's share of the loss.
            unscale: float32 scalar on the summed gradients.
            coefficients: as `AdamUpdate` takes them.
            loss: this rank's share of the step's loss, float32 scalar.
            stop: 1 when this rank was asked to stop, else 0; float32 scalar.

        Returns:
            The global norm, and float32 `(3,)`: its square, the loss, and how many ranks were asked to stop.
        """
        gradients = self.sums(gradients)
        mine = self.square(gradients, unscale)
        loss = loss if self.counts_loss else loss * self.zero
        totals = self.add(ops.stack((mine, loss, stop)))
        norm = ops.sqrt(totals[0])
        factor = unscale
        if self.clips:
            factor = unscale * clip_share(norm, self.max_norm, self.one)
        if self.guards:
            return ops.depend(norm, self.update(gradients, factor, coefficients, norm)), totals
        if ops.isfinite(norm):
            norm = ops.depend(norm, self.update(gradients, factor, coefficients, norm))
        return norm, totals

    def square(self, gradients: tuple[ms.Tensor, ...], unscale: ms.Tensor) -> ms.Tensor:
        """This rank's share of the square of the norm, float32 scalar."""
        if self.norms_by_kernels:  # a copy that is not counted here is on the rank that counts it
            own = self.map(partial(at, gradients), self.counted_at)
            # every gradient first: what is not counted has collectives behind it too, which ranks must call in one order
            return ops.square(ops.reshape(self.gradient_norm(ops.depend(unscale, gradients), *own), ()))
        # times zero: adds nothing, and tells what is not finite
        return ops.addn(self.map(partial(_counted_square, unscale), gradients, self.counted))


def _counted_square(unscale: ms.Tensor, gradient: ms.Tensor, counted: float) -> ms.Tensor:
    """Square of a gradient's norm, times 1 or 0."""
    return ops.reduce_sum(ops.square(gradient * unscale)) * counted


class WholeRankStep(nn.Cell):
    """Forward, backward and update in one graph."""

    def __init__(self, gradients: Gradients | PartGradients, update: RankUpdate) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.update = update

    def construct(
        self, scale: ms.Tensor, unscale: ms.Tensor, coefficients: ms.Tensor, stop: ms.Tensor, *columns: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """As `RankUpdate`."""
        loss, gradients = self.gradients(scale, *columns)
        return self.update(gradients, unscale, coefficients, loss, stop)


class SummedRankUpdate(nn.Cell):
    """The update from `accu_grads.*`, which are zero again afterwards."""

    def __init__(self, update: RankUpdate, sums: ms.ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.update = update
        self.sums = sums
        self.count = len(sums)

    def construct(self, unscale: ms.Tensor, coefficients: ms.Tensor, loss: ms.Tensor, stop: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """As `RankUpdate`."""
        norm, totals = self.update(self.sums, unscale, coefficients, loss, stop)
        for i in range(self.count):
            zeros = ops.depend(ops.zeros_like(self.sums[i]), norm)
            norm = ops.depend(norm, ops.assign(self.sums[i], zeros))
        return norm, totals


class Accumulator(Protocol):
    """Adds the gradients of a step's micro batches to `accu_grads.*`."""

    def __call__(self, batches: Sequence[list[ms.Tensor]], scale: ms.Tensor) -> float:
        """Mean over micro batches of this rank's share of their losses.

        Args:
            batches: columns of each micro batch.
            scale: float32 scalar, of the losses.
        """
        ...

    def compile(self, columns: list[ms.Tensor], scale: ms.Tensor) -> None:
        """Compile every graph for micro batches like `columns`, without communication."""
        ...


class MicroSteps:
    """Micro batches one after the other, all layers on this rank."""

    def __init__(self, gradients: Gradients | PartGradients, sums: ms.ParameterTuple) -> None:
        self.step = MicroStep(gradients, sums, fresh=False)

    def __call__(self, batches: Sequence[list[ms.Tensor]], scale: ms.Tensor) -> float:
        """As `Accumulator`."""
        losses = [self.step(scale, *batch) for batch in batches]
        return float(np.mean([loss.asnumpy() for loss in losses], dtype=np.float64))

    def compile(self, columns: list[ms.Tensor], scale: ms.Tensor) -> None:
        """As `Accumulator`."""
        self.step.compile(scale, *columns)


class RankStep:
    """`step.TrainStep` of one rank; every rank of a job calls it with the same settings at the same time.

    Args:
        optimizer: of the rank's parameters.
        columns: columns every batch has, a subset of `step.COLUMNS`.
        micro_steps: micro batches per step, at least 1.
        averages: ranks the gradients and the loss are averaged over instead of added: 1, or the data ranks.
        loss_ranks: ranks whose loss shares are averaged; 1 when shares add up to the loss.
        whole: the step in one graph; else `accumulate` and `summed`.
        accumulate: adds up gradients.
        summed: the update from the sums.
    """

    def __init__(  # noqa: PLR0913 - one value per fact, all named
        self,
        optimizer: AdamUpdate,
        *,
        columns: Sequence[str],
        micro_steps: int,
        averages: int = 1,
        loss_ranks: int = 1,
        whole: WholeRankStep | None = None,
        accumulate: Accumulator | None = None,
        summed: SummedRankUpdate | None = None,
    ) -> None:
        assert (whole is None) == (accumulate is not None) == (summed is not None)
        self.columns = tuple(name for name in COLUMNS if name in columns)
        self.micro_steps = micro_steps
        self.optimizer = optimizer
        self.averages, self.loss_ranks = averages, loss_ranks
        self.whole, self.accumulate, self.summed = whole, accumulate, summed

    def __call__(
        self, batches: Sequence[Mapping[str, np.ndarray]], *, updates: int, learning_rate: float, scale: LossScale, stop: bool = False
    ) -> StepResult:
        """Run one step; arguments as of `step.TrainStep`, with this rank's rows.

        Args:
            batches: `micro_steps` batches.
            updates: optimizer updates already made.
            learning_rate: rate of this update.
            scale: loss scale of this step.
            stop: whether this process was asked to stop.
        """
        assert len(batches) == self.micro_steps, f"{len(batches)} micro batches for {self.micro_steps} micro steps"
        coefficients, sense, unscale = self._scalars(updates, learning_rate, scale)
        asked = ms.Tensor(float(stop), ms.float32)
        columns = [[ms.Tensor(batch[name], ms.int32) for name in self.columns] for batch in batches]
        if self.whole is not None:
            norm, totals = self.whole(sense, unscale, coefficients, asked, *columns[0])
        else:
            assert self.accumulate is not None
            assert self.summed is not None
            share = self.accumulate(columns, sense)
            norm, totals = self.summed(unscale, coefficients, ms.Tensor(share, ms.float32), asked)
        grad_norm, (_, loss, stops) = float(norm.asnumpy()), totals.asnumpy()
        return StepResult(
            loss=float(loss) / self.loss_ranks, grad_norm=grad_norm, overflow=not np.isfinite(grad_norm), stop=bool(stops > 0)
        )

    def compile(self, rows: int, row_length: int) -> None:
        """Compile every graph for micro batches of `(rows, row_length)` ids, without communication (graph mode).

        Ranks take different times to compile, and a collective on the CPU waits 30 s at most; so they compile first, and
        begin together.
        """
        coefficients, sense, unscale = self._scalars(0, 0.0, LossScale(value=1.0))
        zero = ms.Tensor(0.0, ms.float32)
        columns = [ms.Tensor(np.zeros((rows, row_length), np.int32)) for _ in self.columns]
        if self.whole is not None:
            self.whole.compile(sense, unscale, coefficients, zero, *columns)
            give_back()
            return
        assert self.accumulate is not None
        assert self.summed is not None
        self.accumulate.compile(columns, sense)
        self.summed.compile(unscale, coefficients, zero, zero)
        give_back()

    def _scalars(self, updates: int, learning_rate: float, scale: LossScale) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """What changes from step to step: coefficients of the update, loss scale, and what takes it off the sums again."""
        coefficients = ms.Tensor(self.optimizer.settings.coefficients(updates, learning_rate))
        unscale = 1.0 / (scale.value * self.micro_steps * self.averages)
        return coefficients, ms.Tensor(scale.value, ms.float32), ms.Tensor(unscale, ms.float32)
