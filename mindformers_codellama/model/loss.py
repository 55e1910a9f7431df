"""Next-token loss, the formula of MindFormers' Llama.

tokens = x[:, :-1]; labels = x[:, 1:] or labels[:, 1:];
weight = (tokens != pad) * (labels != ignore); loss = sum(ce * weight) / (sum(weight) + 1e-5).
Shape letters: B batch, S positions, X = B S, V vocabulary, U vocabulary rows of one rank, M ranks; rows given have S + 1 tokens.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.kernels.training import KernelHeadLoss, KernelHeadLossValue
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.part import WHOLE, NetworkPart
from mindformers_codellama.parallel.regions import GatherParts, ReduceRegion
from mindformers_codellama.runtime.dtypes import mindspore_dtype

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
        weight_X = self.weights(tokens_BS, labels_BS, same_segment_BS)
        # an ignored label may be any number: gather position 0 there, its weight is 0
        labels_X1 = ops.reshape(labels_BS, (-1, 1)) * ops.cast(ops.reshape(weight_X, (-1, 1)), labels_BS.dtype)
        logits_XV = ops.reshape(ops.cast(logits_BSV, ms.float32), (-1, logits_BSV.shape[-1]))
        if self.is_cut:
            chosen_X1 = self.cut_log_probability(logits_XV, labels_X1)
        else:
            chosen_X1 = ops.gather_elements(self.log_softmax(logits_XV), 1, labels_X1)
        loss = -ops.reduce_sum(ops.reshape(chosen_X1, (-1,)) * weight_X)
        return loss, ops.reduce_sum(weight_X)

    def weights(self, tokens_BS: ms.Tensor, labels_BS: ms.Tensor, same_segment_BS: ms.Tensor | None) -> ms.Tensor:
        """float32 `(X,)`: 1 where the label is predicted, else 0."""
        kept_BS = ops.logical_and(tokens_BS != self.pad_token_id, labels_BS != self.ignore_token_id)
        if same_segment_BS is not None:
            kept_BS = ops.logical_and(kept_BS, same_segment_BS)
        return ops.reshape(ops.cast(kept_BS, ms.float32), (-1,))


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


class HeadLoss(nn.Cell):
    """`TokenLoss` from the hidden states before the head.

    With the kernels in use logits exist for a chunk of tokens at a time only, except when the vocabulary is cut.

    Args:
        network: has the head.
        gradients: they will be asked for; the kernels make them together with the loss.
    """

    def __init__(self, network: LlamaNetwork, *, gradients: bool = True) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        config, part = network.config, network.part
        self.token_loss = TokenLoss(config.pad_token_id, config.ignore_token_id, part)
        self.in_chunks = network.uses_kernels and not part.cut_vocabulary
        self.gradients = gradients
        self.compute_dtype = mindspore_dtype(config.compute_dtype)
        if self.in_chunks:
            self.kernel_loss = KernelHeadLoss() if gradients else KernelHeadLossValue()

    def construct(
        self, hidden_BSD: ms.Tensor, tokens_BS: ms.Tensor, labels_BS: ms.Tensor, same_segment_BS: ms.Tensor | None = None
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """`hidden_BSD` as `LlamaNetwork.run_layers` gives it; the rest as `TokenLoss`."""
        if not self.in_chunks:
            return self.token_loss(self.network.head(hidden_BSD), tokens_BS, labels_BS, same_segment_BS)
        if self.network.enters:
            hidden_BSD = self.network.enter(hidden_BSD)
        weight_X = self.token_loss.weights(tokens_BS, labels_BS, same_segment_BS)
        hidden_BSD = ops.cast(hidden_BSD, self.compute_dtype)
        found = self.kernel_loss(hidden_BSD, self.network.lm_head.weight, ops.reshape(labels_BS, (-1,)), weight_X)
        loss = found[0] if self.gradients else found
        return ops.reshape(loss, ()), ops.reduce_sum(weight_X)


class LossSums(nn.Cell):
    """Runs the network on rows of S + 1 tokens and gives `(sum of losses, sum of weights)`.

    For evaluation, gradient accumulation and anything that averages over more than one batch.

    Args:
        network: has the first and the last layer.
        gradients: they will be asked for.
    """

    def __init__(self, network: LlamaNetwork, *, gradients: bool = True) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.head_loss = HeadLoss(network, gradients=gradients)

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
        hidden_BSD = self.network.run_layers(tokens_BS, None, position_ids_BS, segment_ids_BS)
        return self.head_loss(hidden_BSD, tokens_BS, labels_BS, same_segment_BS)


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
