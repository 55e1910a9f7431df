"""Next-token loss, the formula of MindFormers' Llama.

tokens = x[:, :-1]; labels = x[:, 1:] or labels[:, 1:];
weight = (tokens != pad) * (labels != ignore); loss = sum(ce * weight) / (sum(weight) + 1e-5).
Shape letters: B batch, S positions, X = B S, V vocabulary, U vocabulary rows of one rank, M ranks; rows given have S + 1 tokens.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.part import WHOLE, NetworkPart
from mindformers_codellama.parallel.regions import GatherParts, ReduceRegion

WEIGHT_EPS = 1e-5
"""Keeps the mean of a batch without any label finite (MindFormers' value)."""


class TokenLoss(nn.Cell):
    """Sum of weighted cross entropies, and sum of weights; both float32 scalars.

    Args:
        pad_token_id: tokens of this id predict nothing.
        ignore_token_id: labels of this value are not predicted.
        part: whose logits come; with a cut vocabulary only this rank's, and no rank ever has all of them.
    """

    def __init__(self, pad_token_id: int, ignore_token_id: int, part: NetworkPart = WHOLE) -> None:
        super().__init__()
        self.pad_token_id = pad_token_id
        self.ignore_token_id = ignore_token_id
        self.is_cut = part.cut_vocabulary
        if self.is_cut:
            self.cut_log_probability = CutLogProbability(part)
        else:
            self.log_softmax = ops.LogSoftmax(-1)

    def construct(
        self, logits_BSV: ms.Tensor, tokens_BS: ms.Tensor, labels_BS: ms.Tensor, same_segment_BS: ms.Tensor | None = None
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """Cross entropy in float32; `same_segment_BS` (bool) is false where the label belongs to the next packed sample."""
        kept_BS = ops.logical_and(tokens_BS != self.pad_token_id, labels_BS != self.ignore_token_id)
        if same_segment_BS is not None:
            kept_BS = ops.logical_and(kept_BS, same_segment_BS)
        weight_X = ops.reshape(ops.cast(kept_BS, ms.float32), (-1,))
        # an ignored label may be any number: gather position 0 there, its weight is 0
        labels_X1 = ops.reshape(labels_BS * ops.cast(kept_BS, labels_BS.dtype), (-1, 1))
        logits_XV = ops.reshape(ops.cast(logits_BSV, ms.float32), (-1, logits_BSV.shape[-1]))
        if self.is_cut:
            chosen_X1 = self.cut_log_probability(logits_XV, labels_X1)
        else:
            chosen_X1 = ops.gather_elements(self.log_softmax(logits_XV), 1, labels_X1)
        loss = -ops.reduce_sum(ops.reshape(chosen_X1, (-1,)) * weight_X)
        return loss, ops.reduce_sum(weight_X)


class CutLogProbability(nn.Cell):
    """Log probability of one token per row, from logits cut by vocabulary.

    Three numbers per row and rank are communicated: the largest logit, gathered, and the sum of exponentials and the
    chosen logit, added. The gradient of a rank's logits needs nothing from the others.
    """

    def __init__(self, part: NetworkPart) -> None:
        super().__init__()
        self.index = part.axis.index
        self.gather = GatherParts(part.axis, 1)
        self.reduce = ReduceRegion(part.axis)

    def construct(self, logits_XU: ms.Tensor, labels_X1: ms.Tensor) -> ms.Tensor:
        """float32 `(X, 1)`; labels are ids of the whole vocabulary."""
        rows = logits_XU.shape[1]
        largest_XM = self.gather(ops.stop_gradient(ops.ReduceMax(keep_dims=True)(logits_XU, 1)))
        shifted_XU = logits_XU - ops.ReduceMax(keep_dims=True)(largest_XM, 1)
        local_X1 = labels_X1 - self.index * rows
        here_X1 = ops.logical_and(local_X1 >= 0, local_X1 < rows)
        own_X1 = local_X1 * ops.cast(here_X1, local_X1.dtype)
        chosen_X1 = ops.gather_elements(shifted_XU, 1, own_X1) * ops.cast(here_X1, ms.float32)
        sum_X1 = ops.ReduceSum(keep_dims=True)(ops.exp(shifted_XU), 1)
        both_X2 = self.reduce(ops.concat((sum_X1, chosen_X1), 1))
        return both_X2[:, 1:] - ops.log(both_X2[:, :1])


class LossSums(nn.Cell):
    """Runs the network on rows of S + 1 tokens and gives `(sum of losses, sum of weights)`.

    For evaluation, gradient accumulation and anything that averages over more than one batch.
    """

    def __init__(self, network: LlamaNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.token_loss = TokenLoss(network.config.pad_token_id, network.config.ignore_token_id, network.part)

    def construct(
        self,
        input_ids_BX: ms.Tensor,
        labels_BX: ms.Tensor | None = None,
        segment_ids_BX: ms.Tensor | None = None,
        position_ids_BX: ms.Tensor | None = None,
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """All inputs int32 `(B, S + 1)`; see `LlamaNetwork.construct` for their ranges."""
        tokens_BS = input_ids_BX[:, :-1]
        labels_BS = input_ids_BX[:, 1:] if labels_BX is None else labels_BX[:, 1:]
        position_ids_BS = None if position_ids_BX is None else position_ids_BX[:, :-1]
        segment_ids_BS = None
        same_segment_BS = None
        if segment_ids_BX is not None:
            segment_ids_BS = segment_ids_BX[:, :-1]
            same_segment_BS = segment_ids_BS == segment_ids_BX[:, 1:]
        logits_BSV = self.network(tokens_BS, position_ids_BS, segment_ids_BS)
        return self.token_loss(logits_BSV, tokens_BS, labels_BS, same_segment_BS)


class TrainingLoss(nn.Cell):
    """Mean loss of a batch, a float32 scalar: `sum / (weight + 1e-5)`."""

    def __init__(self, network: LlamaNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.sums = LossSums(network)

    def construct(
        self,
        input_ids_BX: ms.Tensor,
        labels_BX: ms.Tensor | None = None,
        segment_ids_BX: ms.Tensor | None = None,
        position_ids_BX: ms.Tensor | None = None,
    ) -> ms.Tensor:
        """All inputs int32 `(B, S + 1)`, as `LossSums`."""
        loss, weight = self.sums(input_ids_BX, labels_BX, segment_ids_BX, position_ids_BX)
        return loss / (weight + WEIGHT_EPS)
