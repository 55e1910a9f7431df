"""One block, and the stack of blocks between the token ids and the output head."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.kernels.training import KernelNorm, rotary_table
from mindformers_codellama.model.attention import Attention
from mindformers_codellama.model.edges import embedding_edge
from mindformers_codellama.model.feed_forward import FeedForward
from mindformers_codellama.model.kernel_block import KernelBlock
from mindformers_codellama.model.kernels import stream_dtype, uses_kernels
from mindformers_codellama.model.linear import CutEmbedding, Embedding
from mindformers_codellama.model.norm import RMSNorm
from mindformers_codellama.model.part import WHOLE, NetworkPart, normed_dtype
from mindformers_codellama.model.rope import RotaryTable, rotary_angles
from mindformers_codellama.runtime.dtypes import mindspore_dtype


def build_norm(config: ModelConfig) -> RMSNorm:
    """The norm every block and the stack's end use; its weight is always float32, as MindFormers holds it."""
    norm_dtype = mindspore_dtype(config.layernorm_compute_dtype)
    return RMSNorm(config.hidden_size, eps=config.rms_norm_eps, norm_dtype=norm_dtype, param_dtype=ms.float32)


class DecoderBlock(nn.Cell):
    """Pre-norm residual block: `x + attention(norm x)`, then `x + feed_forward(norm x)`.

    Its Cells hold the weights and say the formula, in plain operators; with the kernels in use `kernel_block` computes it.

    Args:
        config: sizes and types.
        part: what of each layer this rank holds.
        kernel_block: None computes with plain operators. One serves all blocks, so that MindSpore reads its code once.
    """

    def __init__(self, config: ModelConfig, part: NetworkPart = WHOLE, kernel_block: KernelBlock | None = None) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config, part)
        self.ffn_norm = build_norm(config)
        self.feed_forward = FeedForward(config, part)
        self.uses_kernels = kernel_block is not None
        if kernel_block is not None:
            self.kernel_block = kernel_block

    def construct(self, x_BSD: ms.Tensor, *where: ms.Tensor) -> ms.Tensor:
        """`(B, S, D)` to the same shape; `(B, S / degree, D)` when positions are cut.

        Args:
            x_BSD: the residual stream.
            *where: cosines, sines and mask as `Attention` takes them; with kernels the table, positions, segments and ids of
                `KernelBlock`.
        """
        if self.uses_kernels:
            attention, inner = self.attention, self.feed_forward
            return self.kernel_block(
                x_BSD,
                self.attention_norm.weight,
                attention.wq.merged(),
                attention.wk.merged(),
                attention.wv.merged(),
                attention.wo.merged(),
                self.ffn_norm.weight,
                inner.w1.merged(),
                inner.w3.merged(),
                inner.w2.merged(),
                *where,
            )
        return self.plain(x_BSD, where[0], where[1], where[2])

    def plain(self, x_BSD: ms.Tensor, cos_BS1H: ms.Tensor, sin_BS1H: ms.Tensor, mask_B11ST: ms.Tensor) -> ms.Tensor:
        """The formula."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), cos_BS1H, sin_BS1H, mask_B11ST)
        return x_BSD + self.feed_forward(self.ffn_norm(x_BSD))


class DecoderStack(nn.Cell):
    """Embedding, L blocks and the final norm: the part MindFormers' names put under `model.`.

    A stage of a pipeline has its own blocks at their places in the list of all, so that their names stay the same.
    """

    def __init__(self, config: ModelConfig, part: NetworkPart = WHOLE) -> None:
        super().__init__()
        self.is_first, self.is_last = part.first, part.last
        own = part.own_layers(config)
        self.first_layer, self.end_layer = own.start, own.stop
        edge = embedding_edge(part) if part.first and not part.cut_vocabulary else None
        self.splits = edge is not None
        if part.first:
            self.tok_embeddings = build_embedding(config, part)
        if edge is not None:
            self.split = edge
        self.uses_kernels = uses_kernels(config)
        kernel_block = KernelBlock(config, part) if self.uses_kernels else None
        blocks = [DecoderBlock(config, part, kernel_block) if i in own else nn.Identity() for i in range(config.num_layers)]
        self.layers = nn.CellList(blocks)
        if part.last:
            self.norm_out = build_norm(config)
        self.rotary = RotaryTable(config, positions=config.seq_length)
        if self.uses_kernels:
            self.table_PH = rotary_table(rotary_angles(config, config.seq_length))
            self.kernel_norm = KernelNorm(config.rms_norm_eps, output=normed_dtype(config, part))

    def construct(
        self,
        input_ids_BS: ms.Tensor,
        position_ids_BS: ms.Tensor | None,
        visible: ms.Tensor,
        hidden_BSD: ms.Tensor | None = None,
    ) -> ms.Tensor:
        """Hidden states `(B, S, D)` in the compute type (float32 between blocks computed by kernels), normalised on the last stage.

        Args:
            input_ids_BS: int32 ids.
            position_ids_BS: int32 in [0, seq_length); 0..S-1 when None.
            visible: the additive mask `(B, 1, 1, S, S)`; with kernels the segments, int32 `(B, S)`.
            hidden_BSD: what the stage before gave; the first stage does not look at it. When positions are cut, it is
                `(B, S / degree, D)`, as is what is given back.
        """
        where = self.where(input_ids_BS, position_ids_BS, visible)
        x_BSD = hidden_BSD
        if self.is_first:
            x_BSD = self.tok_embeddings(input_ids_BS)
        if self.splits:
            x_BSD = self.split(x_BSD)
        for index in range(self.first_layer, self.end_layer):
            x_BSD = self.layers[index](x_BSD, *where)
        if self.is_last:
            return self.kernel_norm(x_BSD, self.norm_out.weight) if self.uses_kernels else self.norm_out(x_BSD)
        return x_BSD

    def where(self, input_ids_BS: ms.Tensor, position_ids_BS: ms.Tensor | None, visible: ms.Tensor) -> tuple[ms.Tensor, ...]:
        """What every block takes besides the stream."""
        if not self.uses_kernels:
            cos_BS1H, sin_BS1H = self.rotary(input_ids_BS.shape[1], position_ids_BS)
            return cos_BS1H, sin_BS1H, visible
        if position_ids_BS is None:
            position_ids_BS = ops.broadcast_to(ops.cast(ops.arange(input_ids_BS.shape[1]), ms.int32), input_ids_BS.shape)
        return self.table_PH, position_ids_BS, visible, input_ids_BS


def build_embedding(config: ModelConfig, part: NetworkPart) -> Embedding | CutEmbedding:
    """The embedding of a part: whole, or the vocabulary rows of its rank."""
    compute_dtype, param_dtype = stream_dtype(config), mindspore_dtype(config.param_init_dtype)
    if not part.cut_vocabulary:
        return Embedding(config.vocab_size, config.hidden_size, compute_dtype=compute_dtype, param_dtype=param_dtype)
    rows = part.share(config.vocab_size)
    return CutEmbedding(
        rows,
        config.hidden_size,
        first_row=part.axis.index * rows,
        compute_dtype=compute_dtype,
        param_dtype=param_dtype,
        leave=embedding_edge(part),
    )
