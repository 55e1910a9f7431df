"""`Linear` and `Embedding`: the only Cells that own large weights.

Shape letters: X rows of any leading dims, I input width, O output width.
A parallel layer replaces one of these by a Cell with the same `weight` and `construct`.
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
    """

    def __init__(self, in_size: int, out_size: int, *, compute_dtype: ms.Type, param_dtype: ms.Type, has_bias: bool = False) -> None:
        super().__init__()
        self.in_size = in_size
        self.out_size = out_size
        self.compute_dtype = compute_dtype
        self.has_bias = has_bias
        self.weight = ms.Parameter(initializer("zeros", (out_size, in_size), param_dtype), name="weight")
        if has_bias:
            self.bias = ms.Parameter(initializer("zeros", (out_size,), param_dtype), name="bias")
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """`(..., I)` to `(..., O)` in `compute_dtype`."""
        shape = x.shape
        x_XI = ops.reshape(ops.cast(x, self.compute_dtype), (-1, self.in_size))
        y_XO = self.matmul(x_XI, ops.cast(self.weight, self.compute_dtype))
        if self.has_bias:
            y_XO = y_XO + ops.cast(self.bias, self.compute_dtype)
        return ops.reshape(y_XO, shape[:-1] + (self.out_size,))


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
