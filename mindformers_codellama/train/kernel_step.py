"""Training by the C++ kernels without a graph: the step of one process, and the gradients of one rank among copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_codellama.kernels.training import add_in_place_operator
from mindformers_codellama.model.kernel_pass import Gradient, KernelPass, RowGradient
from mindformers_codellama.model.lora_pass import Dropout
from mindformers_codellama.model.loss import WEIGHT_EPS, TrainingLoss
from mindformers_codellama.parallel.comm import Axis
from mindformers_codellama.parallel.regions import AddRanks
from mindformers_codellama.train.clipped_update import ClippedUpdate


class KernelStep:
    """Forward, backward and update of a network on one rank; the gradients of a step exist once, however many micro batches it has.

    Args:
        loss: a `TrainingLoss` that `fits`.
        update: of the parameters whose gradients are wanted.
        parts: parts a micro batch is computed in, as of `step.PartGradients`.
        dropout: of an adapter.
    """

    def __init__(self, loss: nn.Cell, update: ClippedUpdate, *, parts: int, dropout: Dropout | None = None) -> None:
        self.run = KernelPass(loss, dropout)
        self.update = update
        self.names = tuple(parameter.name for parameter in update.update.parameters)
        self.parts = parts
        self.add = add_in_place_operator()

    @staticmethod
    def fits(loss: nn.Cell, update: ClippedUpdate) -> bool:
        """Whether the kernels do all of the step."""
        return update.guards and KernelPass.fits(loss)

    def __call__(
        self, batches: Sequence[Mapping[str, np.ndarray]], scale: float, unscale: float, coefficients: np.ndarray, *, updates: int
    ) -> tuple[float, float]:
        """Mean loss of the micro batches, and the global norm of the gradient; no update when that is not finite.

        Args:
            batches: int32 `(B, S + 1)` columns of each micro batch.
            scale: of the losses.
            unscale: what gradients are multiplied by.
            coefficients: as `AdamSettings.coefficients` gives them.
            updates: made before this one; chooses what dropout leaves out.
        """
        with ms._no_grad():
            sums, losses = self._gradients(batches, scale / self.parts, updates)
            norm = self.update.at_once([sums.pop(name) for name in self.names], unscale, coefficients)
        return float(np.mean([loss.asnumpy() for loss in losses], dtype=np.float64)), norm

    def _gradients(
        self, batches: Sequence[Mapping[str, np.ndarray]], scale: float, updates: int
    ) -> tuple[dict[str, Gradient], list[ms.Tensor]]:
        """Sums of gradients by name, and the loss of every part of every micro batch."""
        sums: dict[str, Gradient] = {}
        wanted = frozenset(self.names)

        parts = [part for batch in batches for part in cut_rows(batch, self.parts)]

        def give(parameter: ms.Parameter, gradient: Gradient) -> None:
            if parameter.name not in wanted:
                return
            if len(parts) > 1 and isinstance(gradient, RowGradient):
                gradient = gradient.dense()
            if parameter.name in sums:
                self.add(sums[parameter.name], gradient)
            else:
                sums[parameter.name] = gradient

        losses = []
        for index, part in enumerate(parts):
            self.run.dropout.draw = (updates, index)
            losses.append(self.run(scale, give, **part))
        return sums, losses


class KernelMicroSteps:
    """A `rank_step.Accumulator` without a graph, for ranks that each have all layers.

    The loss of a part of a micro batch is this rank's share of the mean over the ranks of an axis (`shared_loss.TokenMean`).

    Args:
        loss: a `TrainingLoss` that `KernelPass.fits`.
        sums: what the gradient of each parameter is added to, by its name.
        columns: of every batch.
        axis: the data axis the loss is a mean over; alone, of this rank's rows only.
        parts: as of `KernelStep`.
    """

    def __init__(self, loss: TrainingLoss, sums: Mapping[str, ms.Parameter], *, columns: Sequence[str], axis: Axis, parts: int) -> None:
        self.run = KernelPass(loss)
        self.sums, self.columns, self.parts = sums, tuple(columns), parts
        self.add = add_in_place_operator()
        self.add_ranks = AddRanks(axis) if axis.size > 1 else None

    def __call__(self, batches: Sequence[list[ms.Tensor]], scale: ms.Tensor) -> float:
        """As `rank_step.Accumulator`."""
        losses = [loss for batch in batches for loss in self._micro_batch(batch, float(scale.asnumpy()) / self.parts)]
        return float(np.mean(losses, dtype=np.float64))

    def compile(self, columns: list[ms.Tensor], scale: ms.Tensor) -> None:
        """As `rank_step.Accumulator`."""
        if self.add_ranks is not None:
            self.add_ranks.compile(ms.Tensor(np.zeros(self.parts, np.float32)))

    def _micro_batch(self, batch: list[ms.Tensor], scale: float) -> list[float]:
        """This rank's share of the loss of each part; gradients of `share * scale` are added to the sums."""
        columns = dict(zip(self.columns, (column.asnumpy() for column in batch), strict=True))
        parts = cut_rows(columns, self.parts)
        with ms._no_grad():
            tokens = np.array([self.run.tokens(**part) for part in parts], np.float32)
            everyone = tokens if self.add_ranks is None else self.add_ranks(ms.Tensor(tokens)).asnumpy()
            shares = (tokens + WEIGHT_EPS) / (everyone + WEIGHT_EPS)
            found = [self.run(scale * float(share), self._give, **part) for part, share in zip(parts, shares, strict=True)]
        return [float(loss.asnumpy()) * float(share) for loss, share in zip(found, shares, strict=True)]

    def _give(self, parameter: ms.Parameter, gradient: Gradient) -> None:
        if parameter.name in self.sums:
            self.add(self.sums[parameter.name], gradient.dense() if isinstance(gradient, RowGradient) else gradient)


def cut_rows(batch: Mapping[str, np.ndarray], parts: int) -> list[dict[str, np.ndarray]]:
    """Row i belongs to part i modulo their number (`step.PartGradients`)."""
    return [{name: column[i::parts] for name, column in batch.items()} for i in range(parts)]
