"""`Linear` and `Embedding`: the only Cells that own large weights.

Shape letters: X rows of any leading dims, I input width, O output width, R rank of an adapter, U vocabulary rows of one rank.
Cut over ranks, a `Linear` that makes channels (column-parallel) is a smaller one of the same kind; one that takes them
(row-parallel) gets a region that adds the ranks' products; an embedding looks up its own rows only.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import initializer


class Linear(nn.Cell):
    """`y = x @ weight_OI.T (+ bias_O)`; `matmul` is a named Primitive so that a strategy can reach it.

    Args:
        in_size: I.
        out_size: O.
        compute_dtype: type of the product and of the result.
        param_dtype: type the weight is held in.
        has_bias: add a bias of size O.
        leave: brings together the products of ranks that each have a part of I; the bias, whole on every rank, is added
            after it, so that it counts once.

    `adapt` gives it a low-rank adapter (`model.lora`).
    """

    def __init__(  # noqa: PLR0913 - sizes, types and two options
        self,
        in_size: int,
        out_size: int,
        *,
        compute_dtype: ms.Type,
        param_dtype: ms.Type,
        has_bias: bool = False,
        leave: nn.Cell | None = None,
    ) -> None:
        super().__init__()
        self.in_size = in_size
        self.out_size = out_size
        self.compute_dtype = compute_dtype
        self.has_bias = has_bias
        self.weight = ms.Parameter(initializer("zeros", (out_size, in_size), param_dtype), name="weight")
        if has_bias:
            self.bias = ms.Parameter(initializer("zeros", (out_size,), param_dtype), name="bias")
        self.matmul = ops.MatMul(transpose_b=True)
        self.adapts = False
        self.leaves = leave is not None
        if leave is not None:
            self.leave = leave

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """`(..., I)` to `(..., O)` in `compute_dtype`; `leave` may change the leading dims."""
        shape = x.shape
        x_XI = ops.reshape(ops.cast(x, self.compute_dtype), (-1, self.in_size))
        y_XO = self.matmul(x_XI, ops.cast(self.weight, self.compute_dtype))
        if self.adapts:
            u_XR = self.matmul(x_XI, ops.cast(self.lora_a, self.compute_dtype))
            y_XO = y_XO + self.matmul(u_XR, ops.cast(self.lora_b, self.compute_dtype)) * self.lora_scale
        if self.leaves:
            y = self.leave(ops.reshape(y_XO, shape[:-1] + (self.out_size,)))
            return y + ops.cast(self.bias, self.compute_dtype) if self.has_bias else y
        if self.has_bias:
            y_XO = y_XO + ops.cast(self.bias, self.compute_dtype)
        return ops.reshape(y_XO, shape[:-1] + (self.out_size,))

    def adapt(self, lora_a_RI: ms.Parameter, lora_b_OR: ms.Parameter, scale: float) -> None:
        """Compute `W x + scale B (A x)` from now on; before compiling. Parameters keep the names they come with."""
        self.lora_a, self.lora_b, self.lora_scale = lora_a_RI, lora_b_OR, scale
        self.adapts = True

    def merged(self) -> ms.Tensor:
        """The weight, and with an adapter `W + scale B A` in float32: for who computes the product himself."""
        if not self.adapts:
            return self.weight
        return ops.cast(self.weight, ms.float32) + ops.matmul(self.lora_b, self.lora_a) * self.lora_scale


class Embedding(nn.Cell):
    """Rows of `embedding_weight_VD` by token id.

    Ids must lie in [0, V). On the CPU a negative id silently reads from the end and a large one fails inside
    MindSpore, so callers that take ids from a person check them first with `model.inputs.check_token_ids`.
    """

    def __init__(self, vocab_size: int, hidden_size: int, *, compute_dtype: ms.Type, param_dtype: ms.Type) -> None:
        super().__init__()
        self.compute_dtype = compute_dtype
        self.embedding_weight = ms.Parameter(initializer("zeros", (vocab_size, hidden_size), param_dtype), name="embedding_weight")
        self.gather = ops.Gather()

    def construct(self, input_ids_BS: ms.Tensor) -> ms.Tensor:
        """int32 `(B, S)` to `(B, S, D)` in `compute_dtype`."""
        return ops.cast(self.gather(self.embedding_weight, input_ids_BS, 0), self.compute_dtype)


class CutEmbedding(nn.Cell):
    """Rows of an embedding that is cut by vocabulary: each rank gives its own rows and zeros, and `leave` adds them.

    Args:
        rows: U, vocabulary rows held here.
        first_row: id of the first of them.
        hidden_size: D.
        compute_dtype: type of the result.
        param_dtype: type the weight is held in.
        leave: the region that adds.
    """

    def __init__(  # noqa: PLR0913 - a cut embedding has these
        self, rows: int, hidden_size: int, *, first_row: int, compute_dtype: ms.Type, param_dtype: ms.Type, leave: nn.Cell
    ) -> None:
        super().__init__()
        self.rows = rows
        self.first_row = first_row
        self.compute_dtype = compute_dtype
        self.embedding_weight = ms.Parameter(initializer("zeros", (rows, hidden_size), param_dtype), name="embedding_weight")
        self.gather = ops.Gather()
        self.leave = leave

    def construct(self, input_ids_BS: ms.Tensor) -> ms.Tensor:
        """int32 `(B, S)` of the whole vocabulary to `(B, S, D)` in `compute_dtype`."""
        local_BS = input_ids_BS - self.first_row
        here_BS = ops.logical_and(local_BS >= 0, local_BS < self.rows)
        # a row that another rank has is looked up at 0 and multiplied away
        own_BS = local_BS * ops.cast(here_BS, local_BS.dtype)
        x_BSD = ops.cast(self.gather(self.embedding_weight, own_BS, 0), self.compute_dtype)
        return self.leave(x_BSD * ops.expand_dims(ops.cast(here_BS, self.compute_dtype), -1))
