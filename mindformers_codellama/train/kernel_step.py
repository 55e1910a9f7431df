"""A training step by the C++ kernels without a graph: gradients of micro batches, their norm, and the update in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_codellama.kernels.training import add_in_place_operator
from mindformers_codellama.model.kernel_pass import Gradient, KernelPass, RowGradient
from mindformers_codellama.model.lora_pass import Dropout
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

        parts = [{name: column[i :: self.parts] for name, column in batch.items()} for batch in batches for i in range(self.parts)]

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
