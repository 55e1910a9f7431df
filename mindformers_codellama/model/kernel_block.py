"""One block by the C++ kernels: the numbers of `model.decoder.DecoderBlock`, from the same weights.

The Cells here have no parameters. The residual stream x is float32; what leaves a linear for attention or the gate has the
compute type. For the backward pass a block keeps x twice, q, k, v, the mixed values and the two inner rows; normed rows and
the gated product are made again from those, which costs next to nothing.

Automatic differentiation adds the gradients of a tensor that is read twice, and has no bfloat16 sum on the CPU. So a Cell that
reads x for a branch hands x on, and whoever needs it behind takes it from there: its gradients meet inside of that Cell.
In a `bprop` the operator that reads several weights stands first: of weights read later MindSpore 2.10 makes copies.
Letters: B batch, S positions, D hidden, Q = N H queries, K = heads of keys times H, F inner, P positions of the table.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.kernels.linear import (
    KernelLinear,
    gated_linear_operator,
    gated_weight_grad_operator,
    input_grad_operator,
    linear_operator,
    weight_grad_operator,
)
from mindformers_codellama.kernels.training import KernelAdd, KernelAttention, KernelGate, KernelNorm
from mindformers_codellama.model.edges import layer_edges
from mindformers_codellama.model.part import NetworkPart
from mindformers_codellama.runtime.dtypes import mindspore_dtype


class NormedThrice(nn.Cell):
    """Three linears of one normed input, for queries, keys and values."""

    def __init__(self, eps: float, compute_dtype: ms.Type) -> None:
        super().__init__()
        norm = KernelNorm(eps, output=compute_dtype)
        self.eps, self.norm, self.norm_grad = norm.eps, norm.forward, norm.backward
        self.linear = linear_operator(compute_dtype, compute_dtype)
        self.input_grad, self.weight_grad = input_grad_operator(compute_dtype), weight_grad_operator(compute_dtype)
        self.add = KernelAdd().forward

    def construct(
        self, x_BSD: ms.Tensor, norm_D: ms.Tensor, q_QD: ms.Tensor, k_KD: ms.Tensor, v_KD: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor, ms.Tensor]:
        """The stream as it came, and `(B, S, ...)` of each weight in the compute type."""
        h_BSD = self.norm(x_BSD, norm_D, self.eps)
        return x_BSD, self.linear(h_BSD, q_QD), self.linear(h_BSD, k_KD), self.linear(h_BSD, v_KD)

    def bprop(  # noqa: PLR0913 - inputs, outputs and their gradients
        self,
        x_BSD: ms.Tensor,
        norm_D: ms.Tensor,
        q_QD: ms.Tensor,
        k_KD: ms.Tensor,
        v_KD: ms.Tensor,
        out: tuple[ms.Tensor, ...],
        dout: tuple[ms.Tensor, ...],
    ) -> tuple[ms.Tensor, ...]:
        """Float32 gradients of all five."""
        dx_BSD, dq, dk, dv = dout
        dh_BSD = self.input_grad(dq, q_QD, dk, k_KD, dv, v_KD, x_BSD)
        # depends on a gradient, or it would be found equal to the forward pass's and that one kept
        h_BSD = self.norm(ops.depend(x_BSD, dq), norm_D, self.eps)
        branch_BSD, dnorm_D = self.norm_grad(x_BSD, norm_D, self.eps, dh_BSD)
        weights = (self.weight_grad(dq, h_BSD), self.weight_grad(dk, h_BSD), self.weight_grad(dv, h_BSD))
        return self.add(branch_BSD, dx_BSD), dnorm_D, weights[0], weights[1], weights[2]


class NormedTwice(nn.Cell):
    """Two linears of one normed input, for the halves of the gated feed-forward."""

    def __init__(self, eps: float, compute_dtype: ms.Type) -> None:
        super().__init__()
        norm = KernelNorm(eps, output=compute_dtype)
        self.eps, self.norm, self.norm_grad = norm.eps, norm.forward, norm.backward
        self.linear = linear_operator(compute_dtype, compute_dtype)
        self.input_grad, self.weight_grad = input_grad_operator(compute_dtype), weight_grad_operator(compute_dtype)
        self.add = KernelAdd().forward

    def construct(
        self, x_BSD: ms.Tensor, norm_D: ms.Tensor, gate_FD: ms.Tensor, up_FD: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """The stream as it came, and `(B, S, F)` of each weight in the compute type."""
        h_BSD = self.norm(x_BSD, norm_D, self.eps)
        return x_BSD, self.linear(h_BSD, gate_FD), self.linear(h_BSD, up_FD)

    def bprop(  # noqa: PLR0913 - inputs, outputs and their gradients
        self,
        x_BSD: ms.Tensor,
        norm_D: ms.Tensor,
        gate_FD: ms.Tensor,
        up_FD: ms.Tensor,
        out: tuple[ms.Tensor, ...],
        dout: tuple[ms.Tensor, ...],
    ) -> tuple[ms.Tensor, ...]:
        """Float32 gradients of all four."""
        dx_BSD, dgate, dup = dout
        dh_BSD = self.input_grad(dgate, gate_FD, dup, up_FD, x_BSD)
        h_BSD = self.norm(ops.depend(x_BSD, dgate), norm_D, self.eps)
        branch_BSD, dnorm_D = self.norm_grad(x_BSD, norm_D, self.eps, dh_BSD)
        return self.add(branch_BSD, dx_BSD), dnorm_D, self.weight_grad(dgate, h_BSD), self.weight_grad(dup, h_BSD)


class LinearOntoStream(nn.Cell):
    """`x + h @ weight.T` in float32."""

    def __init__(self, compute_dtype: ms.Type) -> None:
        super().__init__()
        self.linear = linear_operator(compute_dtype, ms.float32)
        self.input_grad, self.weight_grad = input_grad_operator(compute_dtype), weight_grad_operator(compute_dtype)
        self.add = KernelAdd().forward

    def construct(self, x_BSD: ms.Tensor, h_BSQ: ms.Tensor, weight_DQ: ms.Tensor) -> ms.Tensor:
        """float32 `(B, S, D)`."""
        return self.add(x_BSD, self.linear(h_BSQ, weight_DQ))

    def bprop(
        self, x_BSD: ms.Tensor, h_BSQ: ms.Tensor, weight_DQ: ms.Tensor, out: ms.Tensor, dout: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Gradients of the stream, of h in its type, and of the weight."""
        return dout, self.input_grad(dout, weight_DQ, h_BSQ), self.weight_grad(dout, h_BSQ)


class GatedOntoStream(nn.Cell):
    """`x + (silu(a) * b) @ down.T` in float32; the product in the brackets is made on the way and never stored."""

    def __init__(self, compute_dtype: ms.Type) -> None:
        super().__init__()
        self.linear = gated_linear_operator(compute_dtype, ms.float32)
        self.input_grad, self.weight_grad = input_grad_operator(compute_dtype), gated_weight_grad_operator(compute_dtype)
        self.gate_grad = KernelGate().backward
        self.add = KernelAdd().forward

    def construct(self, x_BSD: ms.Tensor, a_BSF: ms.Tensor, b_BSF: ms.Tensor, down_DF: ms.Tensor) -> ms.Tensor:
        """float32 `(B, S, D)`."""
        return self.add(x_BSD, self.linear(a_BSF, b_BSF, down_DF))

    def bprop(  # noqa: PLR0913 - inputs, outputs and their gradients
        self, x_BSD: ms.Tensor, a_BSF: ms.Tensor, b_BSF: ms.Tensor, down_DF: ms.Tensor, out: ms.Tensor, dout: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor, ms.Tensor]:
        """Gradients of the stream, of a and b in their type, and of the weight."""
        da_BSF, db_BSF = self.gate_grad(a_BSF, b_BSF, self.input_grad(dout, down_DF, a_BSF))
        return dout, da_BSF, db_BSF, self.weight_grad(dout, a_BSF, b_BSF)


class GatedLinear(nn.Cell):
    """`GatedOntoStream` without the stream, for a branch that ranks bring together first."""

    def __init__(self, compute_dtype: ms.Type) -> None:
        super().__init__()
        self.linear = gated_linear_operator(compute_dtype, ms.float32)
        self.input_grad, self.weight_grad = input_grad_operator(compute_dtype), gated_weight_grad_operator(compute_dtype)
        self.gate_grad = KernelGate().backward

    def construct(self, a_BSF: ms.Tensor, b_BSF: ms.Tensor, down_DF: ms.Tensor) -> ms.Tensor:
        """float32 `(B, S, D)`."""
        return self.linear(a_BSF, b_BSF, down_DF)

    def bprop(
        self, a_BSF: ms.Tensor, b_BSF: ms.Tensor, down_DF: ms.Tensor, out: ms.Tensor, dout: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Gradients of a and b in their type, of the weight in float32."""
        da_BSF, db_BSF = self.gate_grad(a_BSF, b_BSF, self.input_grad(dout, down_DF, a_BSF))
        return da_BSF, db_BSF, self.weight_grad(dout, a_BSF, b_BSF)


class KernelBlock(nn.Cell):
    """A block on one rank, or a rank's part of one.

    Cut over ranks, the regions of `model.edges` stand around the linears as in the plain block; communication is in float32, so
    normed rows are float32 there and are kept.
    """

    def __init__(self, config: ModelConfig, part: NetworkPart) -> None:
        super().__init__()
        compute_dtype = mindspore_dtype(config.compute_dtype)
        self.is_cut = part.degree > 1
        if self.is_cut:
            self.enter_attention, self.leave_attention = _edges(part)
            self.enter_feed_forward, self.leave_feed_forward = _edges(part)
            self.norm = KernelNorm(config.rms_norm_eps)
            self.linear, self.output = KernelLinear(compute_dtype), KernelLinear(compute_dtype, ms.float32)
            self.gated = GatedLinear(compute_dtype)
            self.add = KernelAdd()
        else:
            self.attention_input = NormedThrice(config.rms_norm_eps, compute_dtype)
            self.feed_forward_input = NormedTwice(config.rms_norm_eps, compute_dtype)
            self.output_onto, self.gated_onto = LinearOntoStream(compute_dtype), GatedOntoStream(compute_dtype)
        heads = part.share(config.num_heads), part.share(config.num_kv_heads)
        self.attention = KernelAttention(*heads, config.pad_token_id)

    def construct(  # noqa: PLR0913 - every weight of a block
        self,
        x_BSD: ms.Tensor,
        attention_norm_D: ms.Tensor,
        wq_QD: ms.Tensor,
        wk_KD: ms.Tensor,
        wv_KD: ms.Tensor,
        wo_DQ: ms.Tensor,
        ffn_norm_D: ms.Tensor,
        w1_FD: ms.Tensor,
        w3_FD: ms.Tensor,
        w2_DF: ms.Tensor,
        table_PH: ms.Tensor,
        positions_BS: ms.Tensor,
        segments_BS: ms.Tensor,
        tokens_BS: ms.Tensor,
    ) -> ms.Tensor:
        """float32 `(B, S, D)` to the same shape; `(B, S / degree, D)` when positions are cut.

        Args:
            x_BSD: the residual stream.
            attention_norm_D: the weights, ...
            wq_QD: ...
            wk_KD: ...
            wv_KD: ...
            wo_DQ: ...
            ffn_norm_D: ...
            w1_FD: ...
            w3_FD: ...
            w2_DF: ... all float32.
            table_PH: of `kernels.training.rotary_table`.
            positions_BS: int32, of every token in its sample.
            segments_BS: int32.
            tokens_BS: int32 ids.
        """
        where = (table_PH, positions_BS, segments_BS, tokens_BS)
        if not self.is_cut:
            x_BSD, q, k, v = self.attention_input(x_BSD, attention_norm_D, wq_QD, wk_KD, wv_KD)
            x_BSD = self.output_onto(x_BSD, self.attention(q, k, v, *where)[0], wo_DQ)
            x_BSD, a_BSF, b_BSF = self.feed_forward_input(x_BSD, ffn_norm_D, w1_FD, w3_FD)
            return self.gated_onto(x_BSD, a_BSF, b_BSF, w2_DF)
        h_BSD = self.enter_attention(self.norm(x_BSD, attention_norm_D))
        q, k, v = self.linear(h_BSD, wq_QD), self.linear(h_BSD, wk_KD), self.linear(h_BSD, wv_KD)
        x_BSD = self.add(x_BSD, self.leave_attention(self.output(self.attention(q, k, v, *where)[0], wo_DQ)))
        h_BSD = self.enter_feed_forward(self.norm(x_BSD, ffn_norm_D))
        return self.add(x_BSD, self.leave_feed_forward(self.gated(self.linear(h_BSD, w1_FD), self.linear(h_BSD, w3_FD), w2_DF)))


def _edges(part: NetworkPart) -> tuple[nn.Cell, nn.Cell]:
    """The regions before and after a layer that ranks share."""
    enter, leave = layer_edges(part)
    assert enter is not None, part
    assert leave is not None, part
    return enter, leave
