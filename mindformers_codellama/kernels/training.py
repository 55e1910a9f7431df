"""Training kernels as Cells with gradients, other than the matrix product (`kernels.linear`).

Rules for the graphs built of them on the CPU (MindSpore 2.9 and 2.10, measured):

- bfloat16 tensors travel through these operators although MindSpore has hardly any bfloat16 kernel on the CPU. What fails is
  what automatic differentiation inserts: when a bfloat16 tensor is read by two operators its two gradients are added by
  `AddN`, which has no bfloat16 kernel. So let every bfloat16 tensor be read once: `KernelNorm(copies=3)` gives three names for
  one output and adds their gradients itself.
- `Reshape` has none either (in graph mode): shapes stay as they are, every operator here takes any leading dims.
- A bfloat16 output nobody reads gets a gradient of zeros; do not ask for more copies than are used.
- float32 tensors may be used freely.

Shape letters: B batch, S positions, X = B S, D hidden, N query heads, K key/value heads, H head, F intermediate,
V vocabulary, P positions of the rotary table.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.kernels.library import load_library
from mindformers_codellama.kernels.operators import kernel_operator, writing_operator


def rotary_table(angles_PR: np.ndarray) -> ms.Tensor:
    """Cosines and sines for `KernelAttention`: float32 `(P, H)`, R = H / 2 cosines and then R sines per position."""
    angles = angles_PR.astype(np.float64)
    return ms.Tensor(np.concatenate((np.cos(angles), np.sin(angles)), -1).astype(np.float32))


class KernelNorm(nn.Cell):
    """`x * rsqrt(mean(x^2) + eps) * weight` of a float32 residual stream.

    Only x and the weight are kept for the backward pass.

    Args:
        eps: added to the mean of squares.
        output: float32 or bfloat16.
        copies: how many readers the output has; their gradients are added in float32.
    """

    def __init__(self, eps: float, *, output: ms.Type = ms.float32, copies: int = 1) -> None:
        super().__init__()
        self.eps = ms.Tensor([eps], ms.float32)
        self.copies = copies
        self.forward = kernel_operator("RmsNorm", lambda x, weight, eps: x, lambda x, weight, eps: output, kind=output)
        self.backward = kernel_operator(
            "RmsNormGrad", lambda x, weight, *rest: (x, weight), lambda x, weight, *rest: (ms.float32, ms.float32)
        )

    def construct(self, x: ms.Tensor, weight_D: ms.Tensor) -> ms.Tensor | tuple[ms.Tensor, ...]:
        """float32 `(..., D)` and `(D,)` to the output, or a tuple of it when there are several copies."""
        y = self.forward(x, weight_D, self.eps)
        if self.copies == 1:
            return y
        return (y,) * self.copies

    def bprop(self, x: ms.Tensor, weight_D: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Gradients of x and the weight, float32."""
        if self.copies == 1:
            return self.backward(x, weight_D, self.eps, dout)
        return self.backward(x, weight_D, self.eps, *dout)


class KernelAdd(nn.Cell):
    """`x + branch` in float32, x float32 and the branch float32 or bfloat16, of the same shape; keeps nothing."""

    def __init__(self, branch: ms.Type = ms.float32) -> None:
        super().__init__()
        self.is_bfloat16 = branch == ms.bfloat16
        self.forward = kernel_operator("ResidualAdd", lambda x, branch: x, lambda x, branch: x)
        self.narrow = kernel_operator("ToBfloat16", lambda x: x, lambda x: ms.bfloat16)

    def construct(self, x: ms.Tensor, branch: ms.Tensor) -> ms.Tensor:
        """float32, the shape of x."""
        return self.forward(x, branch)

    def bprop(self, x: ms.Tensor, branch: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """The gradient for x, and the same in the branch's type."""
        if self.is_bfloat16:
            return dout, self.narrow(dout)
        return dout, dout


class KernelGate(nn.Cell):
    """`silu(a) * b`, float32 or bfloat16 of the same shape; computed in float32, keeps a and b."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel_operator("Gate", lambda a, b: a, lambda a, b: a)
        self.backward = kernel_operator("GateGrad", lambda a, b, dy: (a, a), lambda a, b, dy: (a, a))

    def construct(self, a: ms.Tensor, b: ms.Tensor) -> ms.Tensor:
        """Type and shape of a."""
        return self.forward(a, b)

    def bprop(self, a: ms.Tensor, b: ms.Tensor, out: ms.Tensor, dout: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Gradients of a and b in their type."""
        return self.backward(a, b, dout)


class KernelAttention(nn.Cell):
    """Causal grouped-query attention with rotary positions that never stores `(S, S)` numbers.

    A query sees keys that are not behind it, are no pad token and have its segment. Keeps q, k, v, o and the logarithms of
    the softmax sums, `(B, N, S)` float32. A query that sees nothing (then it is a pad token) gives zeros.

    Args:
        num_heads: N.
        num_kv_heads: K, divides N.
        pad_token_id: the tokens whose keys are hidden; None hides none.
    """

    def __init__(self, num_heads: int, num_kv_heads: int, pad_token_id: int | None) -> None:
        super().__init__()
        self.heads = ms.Tensor([num_heads, num_kv_heads, -1 if pad_token_id is None else pad_token_id], ms.int32)
        self.forward = kernel_operator(
            "AttentionForward",
            lambda q, k, *rest: (q, (q[0], num_heads, q[1])),
            lambda q, *rest: (q, ms.float32),
            kind=num_heads,
        )
        self.backward = kernel_operator("AttentionBackward", lambda q, k, v, *rest: (q, k, v), lambda q, k, v, *rest: (q, k, v))

    def construct(  # noqa: PLR0913 - what attention reads
        self,
        q_BSD: ms.Tensor,
        k_BSD: ms.Tensor,
        v_BSD: ms.Tensor,
        table_PH: ms.Tensor,
        positions_BS: ms.Tensor,
        segments_BS: ms.Tensor,
        tokens_BS: ms.Tensor,
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """Mixed values and logarithms of sums; use the first.

        Args:
            q_BSD: `(B, S, N H)` as the linear gives them, float32 or bfloat16.
            k_BSD: `(B, S, K H)`, the same type.
            v_BSD: likewise.
            table_PH: of `rotary_table`.
            positions_BS: int32 in [0, P).
            segments_BS: int32, equal numbers see each other; zeros for one sample per row.
            tokens_BS: int32 ids, for the pad tokens.

        Returns:
            `(B, S, N H)` in the type of q, and float32 `(B, N, S)`.
        """
        return self.forward(q_BSD, k_BSD, v_BSD, table_PH, positions_BS, segments_BS, tokens_BS, self.heads)

    def bprop(  # noqa: PLR0913
        self,
        q_BSD: ms.Tensor,
        k_BSD: ms.Tensor,
        v_BSD: ms.Tensor,
        table_PH: ms.Tensor,
        positions_BS: ms.Tensor,
        segments_BS: ms.Tensor,
        tokens_BS: ms.Tensor,
        out: tuple[ms.Tensor, ms.Tensor],
        dout: tuple[ms.Tensor, ms.Tensor],
    ) -> tuple[ms.Tensor, ...]:
        """Gradients of q, k and v in their type; none for the others."""
        dq_BSD, dk_BSD, dv_BSD = self.backward(
            q_BSD, k_BSD, v_BSD, table_PH, positions_BS, segments_BS, tokens_BS, self.heads, out[0], out[1], dout[0]
        )
        return (
            dq_BSD,
            dk_BSD,
            dv_BSD,
            ops.zeros_like(table_PH),
            ops.zeros_like(positions_BS),
            ops.zeros_like(segments_BS),
            ops.zeros_like(tokens_BS),
        )


class KernelHeadLoss(nn.Cell):
    """`sum over tokens of weight * (log sum exp(logits) - logits[label])`, logits = hidden @ head.T, without `(X, V)` numbers.

    Logits of a chunk of tokens are made, used and forgotten. The gradients are made in the same pass (three products of X D V,
    none repeated) and only scaled afterwards, so this Cell is for training; `KernelHeadLossValue` is for evaluation.
    A bfloat16 `hidden` makes bfloat16 products; logits, softmax and sums are float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel_operator(
            "HeadLossWithGrad",
            lambda hidden, head, labels, weights: ((1,), hidden, head),
            lambda hidden, head, labels, weights: (ms.float32, hidden, ms.float32),
        )
        self.scale = kernel_operator("ScaleInPlace", lambda gradient, factor: (1,), lambda gradient, factor: ms.float32, writes=True)

    def construct(
        self, hidden_XD: ms.Tensor, head_VD: ms.Tensor, labels_X: ms.Tensor, weights_X: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """`(loss, ...)`: use the first, a float32 scalar of shape `(1,)`; the others belong to the backward pass.

        Args:
            hidden_XD: float32 or bfloat16, normed; `(B, S, D)` does as well.
            head_VD: float32.
            labels_X: int32, of any shape with X elements; any number where the weight is 0, otherwise in [0, V).
            weights_X: float32, likewise; no gradient goes to them.
        """
        return self.forward(hidden_XD, head_VD, labels_X, weights_X)

    def bprop(  # noqa: PLR0913
        self,
        hidden_XD: ms.Tensor,
        head_VD: ms.Tensor,
        labels_X: ms.Tensor,
        weights_X: ms.Tensor,
        out: tuple[ms.Tensor, ms.Tensor, ms.Tensor],
        dout: tuple[ms.Tensor, ms.Tensor, ms.Tensor],
    ) -> tuple[ms.Tensor, ...]:
        """Gradients of hidden (its type) and head (float32)."""
        # in place: a second head-sized tensor would stand at the peak of a step's memory
        dhidden_XD = ops.depend(out[1], self.scale(out[1], dout[0]))
        dhead_VD = ops.depend(out[2], self.scale(out[2], dout[0]))
        return dhidden_XD, dhead_VD, ops.zeros_like(labels_X), ops.zeros_like(weights_X)


def frozen_head_loss_operator() -> ops.Custom | None:
    """HeadLossInputGrad(hidden, head, labels, weights) to the loss and the gradient of hidden, as `KernelHeadLoss` takes and gives them.

    The head gets none: a third less arithmetic, and no tensor of its size. None where the library was built before it had this.
    """
    if not hasattr(load_library(), "HeadLossInputGrad"):
        return None
    return kernel_operator(
        "HeadLossInputGrad", lambda hidden, *rest: ((1,), hidden), lambda hidden, *rest: (ms.float32, hidden), kind="frozen"
    )


class KernelHeadLossValue(nn.Cell):
    """The loss of `KernelHeadLoss` alone, without gradients, for evaluation; one product instead of three."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel_operator("HeadLoss", lambda *shapes: (1,), lambda *types: ms.float32)

    def construct(self, hidden_XD: ms.Tensor, head_VD: ms.Tensor, labels_X: ms.Tensor, weights_X: ms.Tensor) -> ms.Tensor:
        """float32 `(1,)`; arguments as `KernelHeadLoss`."""
        return self.forward(hidden_XD, head_VD, labels_X, weights_X)


def gate_grad_in_place_operator() -> ops.Custom:
    """GateGradInPlace(a, b, gradient of `silu(a) * b`) to float32 `(1,)` without meaning: a and b become their gradients.

    All of one type and shape. For tensors nobody else reads, outside of a graph.
    """
    return kernel_operator("GateGradInPlace", lambda *shapes: (1,), lambda *types: ms.float32, writes=True)


def add_in_place_operator() -> ops.Custom:
    """AddInPlace(x, y) to float32 `(1,)` without meaning: x becomes x + y, both float32 of one shape; outside of a graph."""
    return kernel_operator("AddInPlace", lambda *shapes: (1,), lambda *types: ms.float32, writes=True)


def gradient_norm_operator() -> ops.Custom:
    """GradientNorm(unscale float32 scalar, *gradients float32) to float32 `(1,)`: the root of the sum of all squares, times unscale.

    Squares are added in float64 in an order that does not depend on threads. Infinite or NaN when a gradient is.
    """
    return kernel_operator("GradientNorm", lambda *shapes: (1,), lambda *types: ms.float32)


def adam_operator() -> ops.Custom:
    """AdamStep(parameter, m, v, gradient, rates, factor, norm) to float32 `(1,)` without meaning, to depend on.

    Changes parameter, m and v (float32, of one shape) in place, in one pass, with `gradient * factor` (float32):
    m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g g; p -= rate (m / (sqrt(v) + eps) + decay p), as
    `train.optimizer.AdamUpdate`. `rates` is float32 `(5,)`: rate, eps, decay, beta1, beta2; `factor` and `norm` are float32
    scalars. Changes nothing when `norm` is not finite, so no `if` is needed in the graph.

    The gradient must depend on every reader of the parameter, or the norm must: then all have read when this runs.
    """
    return writing_operator("AdamStep", lambda *shapes: (1,), lambda *types: ms.float32, written=3, read=4)
