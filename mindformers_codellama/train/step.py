"""One training step: forward, backward, unscale, clip, and the update unless a gradient overflowed.

Everything on the device is one compiled graph (two when gradients are accumulated); scalars that change
from step to step enter as tensors, so nothing is compiled again. One rank with the C++ kernels needs no graph
(`kernel_step`). Order and formulas are MindFormers'
`MFTrainOneStepCell`; overflow is read off the global norm, which no NPU-only operator is needed for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.errors import ConfigError
from mindformers_codellama.model.lora_pass import Dropout
from mindformers_codellama.runtime.context import is_eager
from mindformers_codellama.runtime.memory import give_back
from mindformers_codellama.train.clipped_update import ClippedUpdate
from mindformers_codellama.train.kernel_step import KernelStep
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamUpdate

COLUMNS = ("input_ids", "labels", "segment_ids", "position_ids")
"""Columns of a batch in the order of the loss Cell's inputs."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step reports."""

    loss: float
    """Mean over micro steps of their mean token loss, unscaled."""
    grad_norm: float
    """Global norm of the unscaled gradient before clipping; not finite on overflow."""
    overflow: bool
    """Whether the update was skipped."""
    stop: bool = False
    """Whether a rank was asked to stop; every rank is told the same."""


class ScaledLoss(nn.Cell):
    """`(loss * scale, loss)` of a batch whose columns come in the order of `COLUMNS`, absent ones left out."""

    def __init__(self, loss: nn.Cell, columns: tuple[str, ...]) -> None:
        super().__init__(auto_prefix=False)
        assert columns[:1] == COLUMNS[:1], f"first column must be {COLUMNS[0]}, got {columns}"
        self.loss = loss
        self.at_labels, self.at_segments, self.at_positions = (columns.index(name) if name in columns else -1 for name in COLUMNS[1:])

    def construct(self, scale: ms.Tensor, *columns: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """`scale` is a float32 scalar, columns are int32 `(B, S + 1)`."""
        labels = columns[self.at_labels] if self.at_labels >= 0 else None
        segments = columns[self.at_segments] if self.at_segments >= 0 else None
        positions = columns[self.at_positions] if self.at_positions >= 0 else None
        loss = self.loss(columns[0], labels, segments, positions)
        return loss * scale, loss


class Gradients(nn.Cell):
    """Loss and gradients with respect to every trainable parameter."""

    def __init__(self, loss: nn.Cell, columns: tuple[str, ...], parameters: Sequence[ms.Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.scaled_loss = ScaledLoss(loss, columns)
        self.gradient = ops.value_and_grad(self.scaled_loss, None, ms.ParameterTuple(parameters), has_aux=True)

    def construct(self, scale: ms.Tensor, *columns: ms.Tensor) -> tuple[ms.Tensor, tuple[ms.Tensor, ...]]:
        """The plain loss and the gradients of `loss * scale`."""
        (_, loss), gradients = self.gradient(scale, *columns)
        return loss, gradients


class PartGradients(nn.Cell):
    """The same of a batch whose rows are computed in parts, one after the other: the mean of their losses, and its gradients.

    Row i belongs to part i modulo their number (MindSpore's MicroBatchInterleaved), so that the parts of a global batch
    are the same however it is dealt over ranks.
    """

    def __init__(self, gradients: Gradients, parts: int) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.parts = parts
        self.share = 1.0 / parts
        self.map = ops.HyperMap()

    def construct(self, scale: ms.Tensor, *columns: ms.Tensor) -> tuple[ms.Tensor, tuple[ms.Tensor, ...]]:
        """As `Gradients`; every part must have rows."""
        mean, sums = self.part(0, scale * self.share, columns)
        for index in range(1, self.parts):
            # after the part before: both have collectives, which all ranks must call in one order
            loss, gradients = self.part(index, ops.depend(scale * self.share, sums), columns)
            mean = mean + loss
            sums = self.map(ops.add, sums, gradients)
        return mean * self.share, sums

    def part(self, index: int, scale: ms.Tensor, columns: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, tuple[ms.Tensor, ...]]:
        """Loss and gradients of every `parts`-th row from `index`."""
        rows: tuple[ms.Tensor, ...] = ()
        for column in columns:
            rows = rows + (column[index :: self.parts],)
        return self.gradients(scale, *rows)


class WholeStep(nn.Cell):
    """Forward, backward and update in one graph."""

    def __init__(self, gradients: Gradients | PartGradients, update: ClippedUpdate) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.update = update

    def construct(self, scale: ms.Tensor, unscale: ms.Tensor, coefficients: ms.Tensor, *columns: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """`(loss, norm)`."""
        loss, gradients = self.gradients(scale, *columns)
        return loss, self.update(gradients, unscale, coefficients)


class MicroStep(nn.Cell):
    """Forward and backward; gradients are added to `accu_grads.<name>`, or replace what is there.

    Args:
        gradients: forward and backward.
        sums: one float32 parameter per gradient.
        fresh: replace instead of add, for the first micro step.
    """

    def __init__(self, gradients: Gradients | PartGradients, sums: ms.ParameterTuple, *, fresh: bool) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.sums = sums
        self.count = len(sums)
        self.fresh = fresh

    def construct(self, scale: ms.Tensor, *columns: ms.Tensor) -> ms.Tensor:
        """The loss of this micro step."""
        loss, gradients = self.gradients(scale, *columns)
        for i in range(self.count):
            gradient = ops.cast(gradients[i], ms.float32)
            done = ops.assign(self.sums[i], gradient) if self.fresh else ops.assign_add(self.sums[i], gradient)
            loss = ops.depend(loss, done)
        return loss


class SummedUpdate(nn.Cell):
    """The update from the sums of `MicroStep`."""

    def __init__(self, update: ClippedUpdate, sums: ms.ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.update = update
        self.sums = sums

    def construct(self, unscale: ms.Tensor, coefficients: ms.Tensor) -> ms.Tensor:
        """The norm."""
        return self.update(self.sums, unscale, coefficients)


def gradients_of(loss: nn.Cell, columns: tuple[str, ...], parameters: Sequence[ms.Parameter], *, parts: int) -> Gradients | PartGradients:
    """The Cell of loss and gradients, in parts when there are several."""
    gradients = Gradients(loss, columns, parameters)
    return gradients if parts == 1 else PartGradients(gradients, parts)


def empty_sums(parameters: Sequence[ms.Parameter]) -> ms.ParameterTuple:
    """`accu_grads.<name>` in float32 for every parameter, as MindFormers names them."""
    zeros = [ms.Tensor(np.zeros(parameter.shape, np.float32)) for parameter in parameters]
    names = [f"accu_grads.{parameter.name}" for parameter in parameters]
    return ms.ParameterTuple([ms.Parameter(zero, name=name, requires_grad=False) for zero, name in zip(zeros, names, strict=True)])


class TrainStep:
    """Callable that makes one optimizer step out of one or several micro batches.

    The gradient of a step is the mean over micro steps of the gradients of their mean losses, as in
    MindFormers. That equals one large batch exactly only when every micro batch holds the same number
    of trained tokens; otherwise tokens of micro batches with fewer of them weigh more.

    Args:
        loss: Cell from `(input_ids, labels, segment_ids, position_ids)` to a float32 scalar.
        update: the optimizer.
        columns: columns every batch has, a subset of `COLUMNS`.
        micro_steps: micro batches per step, at least 1.
        parts: parts a micro batch is computed in.
        max_grad_norm: bound of the global norm; None does not clip.
        dropout: of an adapter; only the step without a graph has it.
    """

    def __init__(  # noqa: PLR0913 - one value per fact, all named
        self,
        loss: nn.Cell,
        update: AdamUpdate,
        *,
        columns: Sequence[str],
        micro_steps: int = 1,
        parts: int = 1,
        max_grad_norm: float | None = None,
        dropout: Dropout | None = None,
    ) -> None:
        self.columns = tuple(name for name in COLUMNS if name in columns)
        self.micro_steps = micro_steps
        self.update = update
        self.compiled = False
        clipped = ClippedUpdate(update, max_grad_norm)
        self.by_kernels = KernelStep(loss, clipped, parts=parts, dropout=dropout) if KernelStep.fits(loss, clipped) else None
        if self.by_kernels is not None:
            return
        if dropout is not None and dropout.share:
            problem = f"got {dropout.share}; compiled steps cannot leave out the same numbers again when a run is resumed."
            fix = "write 0, or train on one CPU process with the kernels (kernels: auto; compute_dtype float32 or bfloat16)."
            raise ConfigError("model.model_config.pet_config.lora_dropout", problem, fix=fix)
        gradients = gradients_of(loss, self.columns, update.parameters, parts=parts)
        if micro_steps == 1:
            self.whole = WholeStep(gradients, clipped)
            return
        sums = empty_sums(update.parameters)
        self.first = MicroStep(gradients, sums, fresh=True)
        self.more = MicroStep(gradients_of(loss, self.columns, update.parameters, parts=parts), sums, fresh=False)
        self.summed = SummedUpdate(clipped, sums)

    def __call__(self, batches: Sequence[Mapping[str, np.ndarray]], *, updates: int, learning_rate: float, scale: LossScale) -> StepResult:
        """Run one step.

        Args:
            batches: `micro_steps` batches of int32 `(B, S + 1)` columns.
            updates: optimizer updates already made.
            learning_rate: rate of this update.
            scale: loss scale of this step.
        """
        assert len(batches) == self.micro_steps, f"{len(batches)} micro batches for {self.micro_steps} micro steps"
        coefficients = self.update.settings.coefficients(updates, learning_rate)
        unscale = 1.0 / (scale.value * self.micro_steps)
        if self.by_kernels is not None:
            mean, grad_norm = self.by_kernels(batches, scale.value, unscale, coefficients, updates=updates)
        else:
            mean, grad_norm = self._by_graphs(batches, scale.value, unscale, coefficients)
        return StepResult(loss=mean, grad_norm=grad_norm, overflow=not np.isfinite(grad_norm))

    def _by_graphs(
        self, batches: Sequence[Mapping[str, np.ndarray]], scale: float, unscale: float, coefficients: np.ndarray
    ) -> tuple[float, float]:
        """Mean loss and norm."""
        self._compile_once(batches[0])
        sense, back, given = ms.Tensor(scale, ms.float32), ms.Tensor(unscale, ms.float32), ms.Tensor(coefficients)
        if self.micro_steps == 1:
            loss, norm = self.whole(sense, back, given, *self._inputs(batches[0]))
            return float(loss.asnumpy()), float(norm.asnumpy())
        losses = [(self.more if i else self.first)(sense, *self._inputs(batch)) for i, batch in enumerate(batches)]
        norm = self.summed(back, given)
        return float(np.mean([loss.asnumpy() for loss in losses], dtype=np.float64)), float(norm.asnumpy())

    def _compile_once(self, batch: Mapping[str, np.ndarray]) -> None:
        """Compile before the first step, and give back what that took before tensors take their part."""
        if self.compiled or is_eager():
            return
        self.compiled = True
        one, coefficients, columns = ms.Tensor(1.0, ms.float32), ms.Tensor(np.zeros(3, np.float32)), self._inputs(batch)
        if self.micro_steps == 1:
            self.whole.compile(one, one, coefficients, *columns)
        else:
            self.first.compile(one, *columns)
            self.more.compile(one, *columns)
            self.summed.compile(one, coefficients)
        give_back()

    def _inputs(self, batch: Mapping[str, np.ndarray]) -> list[ms.Tensor]:
        return [ms.Tensor(batch[name], ms.int32) for name in self.columns]
