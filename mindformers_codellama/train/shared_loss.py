"""The loss of a micro batch whose rows are on several data ranks."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import WEIGHT_EPS, LossSums
from mindformers_codellama.parallel.comm import Axis
from mindformers_codellama.parallel.regions import AddRanks


class TokenMean(nn.Cell):
    """This rank's share of the mean over the trained tokens of all ranks of an axis: `sum / (weight of all + 1e-5)`.

    Shares add up to the mean, whatever the number of trained tokens on each rank; so do their gradients. One rank alone
    has the whole mean.
    """

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self.adds = axis.size > 1
        if self.adds:
            self.add = AddRanks(axis)

    def construct(self, loss: ms.Tensor, weight: ms.Tensor) -> ms.Tensor:
        """Sum of weighted losses and sum of weights of the own rows, float32 scalars; weights have no gradient."""
        weight = ops.stop_gradient(weight)
        if self.adds:
            weight = ops.stop_gradient(ops.reshape(self.add(ops.reshape(weight, (1,))), ()))
        return loss / (weight + WEIGHT_EPS)


class SharedLoss(nn.Cell):
    """`model.loss.TrainingLoss` over the ranks of an axis: gives this rank's share."""

    def __init__(self, network: LlamaNetwork, axis: Axis) -> None:
        super().__init__(auto_prefix=False)
        self.sums = LossSums(network)
        self.mean = TokenMean(axis)

    def construct(
        self,
        input_ids_BX: ms.Tensor,
        labels_BX: ms.Tensor | None = None,
        segment_ids_BX: ms.Tensor | None = None,
        position_ids_BX: ms.Tensor | None = None,
    ) -> ms.Tensor:
        """All inputs int32 `(B, S + 1)`, as `LossSums`."""
        loss, weight = self.sums(input_ids_BX, labels_BX, segment_ids_BX, position_ids_BX)
        return self.mean(loss, weight)
