"""Loss and gradients of a network on one rank by the C++ kernels, one operator after the other, without a graph.

A compiled graph of MindSpore takes 16 MB per layer as long as it lives, and seconds to make. The operators of `kernel_block` need
none: they are called here in the order a graph would have, with the same results bit for bit. What a block keeps is freed as
soon as its last reader ran, and gradients of the gate are written over its inputs. Call it without MindSpore's automatic
differentiation (`mindspore._no_grad`), which would keep all of it.
Letters: B batch, S positions, D hidden, Q = N H queries, K = heads of keys times H, F inner, X = B S, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.kernels.training import add_in_place_operator, frozen_head_loss_operator, gate_grad_in_place_operator
from mindformers_codellama.model.decoder import DecoderBlock
from mindformers_codellama.model.kernel_block import KernelBlock
from mindformers_codellama.model.lora_pass import AdaptedBlockPass, Dropout
from mindformers_codellama.model.loss import WEIGHT_EPS, TrainingLoss
from mindformers_codellama.planner.kernel_activations import REMAKES_EVERY
from mindformers_codellama.planner.rank_work import BYTES


@dataclass(frozen=True, slots=True)
class RowGradient:
    """The gradient of an embedding as it comes: one row per token, to be added where ids are equal."""

    rows: ms.Tensor
    """float32 `(X, D)`."""
    ids: ms.Tensor
    """int32 `(X,)` in [0, V): which row of the embedding each belongs to."""
    places: ms.Tensor
    """int32 `(X,)` in [0, X): equal where ids are."""
    vocabulary: int
    """V."""

    def dense(self) -> ms.Tensor:
        """float32 `(V, D)`."""
        return ops.UnsortedSegmentSum()(self.rows, self.ids, self.vocabulary)

    def summed(self) -> ms.Tensor:
        """float32 `(X, D)`: the rows of `dense` that are not zero in some order, and zeros."""
        return ops.UnsortedSegmentSum()(self.rows, self.places, self.ids.shape[0])


Gradient: TypeAlias = ms.Tensor | RowGradient
Give = Callable[[ms.Parameter, Gradient], None]
"""Takes the gradient of a parameter when it is made."""


@dataclass(slots=True)
class Kept:
    """What a block keeps for its backward pass."""

    x: ms.Tensor
    """float32 `(B, S, D)`, the stream before attention."""
    q: ms.Tensor
    """Compute type `(B, S, Q)`."""
    k: ms.Tensor
    """Compute type `(B, S, K)`."""
    v: ms.Tensor
    """Likewise."""
    mixed: ms.Tensor
    """As q, what attention gives."""
    sums: ms.Tensor
    """float32 `(B, N, S)`, logarithms of the softmax's sums."""
    a: ms.Tensor
    """Compute type `(B, S, F)`; what silu is taken of."""
    b: ms.Tensor
    """As a, what it is multiplied by."""
    middle: ms.Tensor | None
    """As x, the stream before the feed-forward; None where it is made again."""


class BlockPass:
    """Forward and backward of one block.

    Args:
        layer: its weights and Cells.
        remakes: make the stream before the feed-forward again instead of keeping it.
    """

    def __init__(self, layer: DecoderBlock, *, remakes: bool) -> None:
        self.remakes = remakes
        self.cells: KernelBlock = layer.kernel_block
        attention, inner = layer.attention, layer.feed_forward
        self.attention_norm, self.ffn_norm = layer.attention_norm.weight, layer.ffn_norm.weight
        self.wq, self.wk, self.wv, self.wo = attention.wq.weight, attention.wk.weight, attention.wv.weight, attention.wo.weight
        self.w1, self.w2, self.w3 = inner.w1.weight, inner.w2.weight, inner.w3.weight
        self.gate_grad, self.add = gate_grad_in_place_operator(), add_in_place_operator()

    def forward(self, x_BSD: ms.Tensor, where: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, Kept]:
        """float32 `(B, S, D)` to the same, and what is kept; `where` as of `KernelBlock`."""
        cells = self.cells
        _, q, k, v = cells.attention_input.construct(x_BSD, self.attention_norm, self.wq, self.wk, self.wv)
        mixed, sums = cells.attention.construct(q, k, v, *where)
        middle_BSD = cells.output_onto.construct(x_BSD, mixed, self.wo)
        _, a, b = cells.feed_forward_input.construct(middle_BSD, self.ffn_norm, self.w1, self.w3)
        kept = Kept(x_BSD, q, k, v, mixed, sums, a, b, None if self.remakes else middle_BSD)
        return cells.gated_onto.construct(middle_BSD, a, b, self.w2), kept

    def backward(self, dx_BSD: ms.Tensor, kept: Kept, where: tuple[ms.Tensor, ...], give: Give) -> None:
        """Turn `dx_BSD`, the gradient of what `forward` gave, into that of its input, in place; `kept` is used up."""
        self._feed_forward_backward(dx_BSD, kept, give)
        cells = self.cells
        give(self.wo, cells.output_onto.weight_grad(dx_BSD, kept.mixed))
        dmixed = cells.output_onto.input_grad(dx_BSD, self.wo, kept.mixed)
        dq, dk, dv = cells.attention.backward(kept.q, kept.k, kept.v, *where, cells.attention.heads, kept.mixed, kept.sums, dmixed)
        del dmixed, kept.q, kept.k, kept.v, kept.mixed
        cell, x_BSD = cells.attention_input, kept.x
        dh_BSD = cell.input_grad(dq, self.wq, dk, self.wk, dv, self.wv, x_BSD)
        h_BSD = cell.norm(x_BSD, self.attention_norm, cell.eps)
        for weight, gradient in ((self.wq, dq), (self.wk, dk), (self.wv, dv)):
            give(weight, cell.weight_grad(gradient, h_BSD))
        del dq, dk, dv, gradient, h_BSD
        branch_BSD, dnorm_D = cell.norm_grad(x_BSD, self.attention_norm, cell.eps, dh_BSD)
        give(self.attention_norm, dnorm_D)
        self.add(dx_BSD, branch_BSD)

    def _feed_forward_backward(self, dx_BSD: ms.Tensor, kept: Kept, give: Give) -> None:
        gated, cell = self.cells.gated_onto, self.cells.feed_forward_input
        give(self.w2, gated.weight_grad(dx_BSD, kept.a, kept.b))
        self.gate_grad(kept.a, kept.b, gated.input_grad(dx_BSD, self.w2, kept.a))
        da, db = kept.a, kept.b
        x_BSD = self.cells.output_onto.construct(kept.x, kept.mixed, self.wo) if kept.middle is None else kept.middle
        del kept.a, kept.b, kept.middle
        dh_BSD = cell.input_grad(da, self.w1, db, self.w3, x_BSD)
        h_BSD = cell.norm(x_BSD, self.ffn_norm, cell.eps)
        give(self.w1, cell.weight_grad(da, h_BSD))
        del da
        give(self.w3, cell.weight_grad(db, h_BSD))
        del db, h_BSD
        branch_BSD, dnorm_D = cell.norm_grad(x_BSD, self.ffn_norm, cell.eps, dh_BSD)
        give(self.ffn_norm, dnorm_D)
        self.add(dx_BSD, branch_BSD)


class KernelPass:
    """Forward and backward of `TrainingLoss`; of a network with an adapter gradients of that alone.

    Args:
        loss: of a network that `fits`.
        dropout: of the adapter.
    """

    def __init__(self, loss: TrainingLoss, dropout: Dropout | None = None) -> None:
        self.sums = loss.sums
        self.network = loss.sums.network
        self.stack = self.network.model
        # one small product, 1.3 % of a step if all blocks make it, for 6 of the 40 bytes a block keeps (of 68 in float32)
        every = REMAKES_EVERY[BYTES[self.network.config.compute_dtype]]
        self.adapts = self.network.adapts
        self.dropout = dropout or Dropout()
        self.frozen_head = frozen_head_loss_operator() if self.adapts else None
        self.blocks: list[BlockPass | AdaptedBlockPass]
        if self.adapts:
            self.blocks = [AdaptedBlockPass(layer, i, self.dropout) for i, layer in enumerate(self.stack.layers)]
        else:
            self.blocks = [BlockPass(layer, remakes=i % every == 0) for i, layer in enumerate(self.stack.layers)]

    @staticmethod
    def fits(loss: nn.Cell) -> bool:
        """Whether this class can take the place of a graph of `loss`: the kernels compute, and one rank has everything."""
        if not isinstance(loss, TrainingLoss):
            return False
        network = loss.sums.network
        part = network.part
        return network.uses_kernels and part.degree == 1 and part.first and part.last

    def __call__(
        self,
        scale: float,
        give: Give,
        input_ids: np.ndarray,
        labels: np.ndarray | None = None,
        segment_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
    ) -> ms.Tensor:
        """The loss, a float32 scalar; gradients of `loss * scale` go to `give`.

        Args:
            scale: of the loss.
            give: called once per parameter with a float32 tensor that nobody else has, for the embedding with its rows.
            input_ids: int32 `(B, S + 1)`; this and the others as `TrainingLoss` takes them.
            labels: as `input_ids`.
            segment_ids: as `input_ids`.
            position_ids: as `input_ids`.
        """
        tokens_BS = _ints(input_ids[:, :-1])
        labels_BS, weight_X = self._targets(input_ids, labels, segment_ids)
        order_S = np.arange(input_ids.shape[1] - 1)
        positions_BS = _ints(np.broadcast_to(order_S, tokens_BS.shape) if position_ids is None else position_ids[:, :-1])
        segments_BS = None if segment_ids is None else _ints(segment_ids[:, :-1])
        visible_BS = ops.zeros_like(tokens_BS) if segments_BS is None else segments_BS
        where = self.stack.where(tokens_BS, positions_BS, visible_BS)
        kept: list[Any] = []  # each what its block keeps
        x_BSD = self.stack.tok_embeddings.construct(tokens_BS)
        for block in self.blocks:
            x_BSD, keeps = block.forward(x_BSD, where)
            kept.append(keeps)
            del keeps
        loss, dx_BSD = self._head(x_BSD, scale, weight_X, labels_BS, give)
        del x_BSD
        for block in reversed(self.blocks):
            block.backward(dx_BSD, kept.pop(), where, give)
        if self.adapts:
            return loss
        embedding = self.stack.tok_embeddings.embedding_weight
        places_X = np.unique(input_ids[:, :-1], return_inverse=True)[1].reshape(-1)
        rows_XD = ops.reshape(dx_BSD, (-1, dx_BSD.shape[-1]))
        give(embedding, RowGradient(rows_XD, ops.reshape(tokens_BS, (-1,)), _ints(places_X), embedding.shape[0]))
        return loss

    def tokens(
        self,
        input_ids: np.ndarray,
        labels: np.ndarray | None = None,
        segment_ids: np.ndarray | None = None,
        position_ids: np.ndarray | None = None,
    ) -> float:
        """How many tokens of such a batch are trained on; its loss is a mean over them."""
        return float(self._targets(input_ids, labels, segment_ids)[1].asnumpy().sum())

    def _targets(self, input_ids: np.ndarray, labels: np.ndarray | None, segment_ids: np.ndarray | None) -> tuple[ms.Tensor, ms.Tensor]:
        """Labels int32 `(B, S)` and their weights float32 `(X,)`."""
        labels_BS = _ints((input_ids if labels is None else labels)[:, 1:])
        same_BS = None if segment_ids is None else ms.Tensor(segment_ids[:, :-1] == segment_ids[:, 1:])
        return labels_BS, self.sums.head_loss.token_loss.weights(_ints(input_ids[:, :-1]), labels_BS, same_BS)

    def _head(self, x_BSD: ms.Tensor, scale: float, weight_X: ms.Tensor, labels_BS: ms.Tensor, give: Give) -> tuple[ms.Tensor, ms.Tensor]:
        """The loss, and the gradient of the stream behind the last block."""
        head, norm, cell = self.network.lm_head.weight, self.stack.norm_out.weight, self.stack.kernel_norm
        hidden_BSD = cell.construct(x_BSD, norm)
        loss_cell = self.sums.head_loss.kernel_loss
        inputs = (hidden_BSD, head, ops.reshape(labels_BS, (-1,)), weight_X)
        dhead_VD = None
        if self.frozen_head is not None:
            found, dhidden_BSD = self.frozen_head(*inputs)
        else:
            found, dhidden_BSD, dhead_VD = loss_cell.construct(*inputs)
        del hidden_BSD, inputs
        total = ops.reduce_sum(weight_X) + WEIGHT_EPS
        factor = ops.reshape(ms.Tensor(scale, ms.float32) / total, (1,))
        loss_cell.scale(dhidden_BSD, factor)
        if dhead_VD is not None:
            loss_cell.scale(dhead_VD, factor)
            give(head, dhead_VD)
        dx_BSD, dnorm_D = cell.backward(x_BSD, norm, cell.eps, dhidden_BSD)
        give(norm, dnorm_D)
        return ops.reshape(found, ()) / total, dx_BSD


def _ints(columns: np.ndarray) -> ms.Tensor:
    """Cut on the host: the kernels read rows that lie one after the other."""
    return ms.Tensor(np.ascontiguousarray(columns), ms.int32)
