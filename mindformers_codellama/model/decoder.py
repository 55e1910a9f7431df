"""One block, and the stack of blocks between the token ids and the output head."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.model.attention import Attention
from mindformers_codellama.model.feed_forward import FeedForward
from mindformers_codellama.model.linear import Embedding
from mindformers_codellama.model.norm import RMSNorm
from mindformers_codellama.model.rope import RotaryTable
from mindformers_codellama.runtime.dtypes import mindspore_dtype


def build_norm(config: ModelConfig) -> RMSNorm:
    """The norm every block and the stack's end use; its weight is always float32, as MindFormers holds it."""
    norm_dtype = mindspore_dtype(config.layernorm_compute_dtype)
    return RMSNorm(config.hidden_size, eps=config.rms_norm_eps, norm_dtype=norm_dtype, param_dtype=ms.float32)


class DecoderBlock(nn.Cell):
    """Pre-norm residual block: `x + attention(norm x)`, then `x + feed_forward(norm x)`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config)
        self.ffn_norm = build_norm(config)
        self.feed_forward = FeedForward(config)

    def construct(self, x_BSD: ms.Tensor, cos_BS1H: ms.Tensor, sin_BS1H: ms.Tensor, mask_B11ST: ms.Tensor) -> ms.Tensor:
        """`(B, S, D)` to the same shape."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), cos_BS1H, sin_BS1H, mask_B11ST)
        return x_BSD + self.feed_forward(self.ffn_norm(x_BSD))


class DecoderStack(nn.Cell):
    """Embedding, L blocks and the final norm: the part MindFormers' names put under `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        compute_dtype = mindspore_dtype(config.compute_dtype)
        param_dtype = mindspore_dtype(config.param_init_dtype)
        self.tok_embeddings = Embedding(config.vocab_size, config.hidden_size, compute_dtype=compute_dtype, param_dtype=param_dtype)
        self.layers = nn.CellList([DecoderBlock(config) for _ in range(config.num_layers)])
        self.norm_out = build_norm(config)
        self.rotary = RotaryTable(config, positions=config.seq_length)

    def construct(self, input_ids_BS: ms.Tensor, position_ids_BS: ms.Tensor | None, mask_B11ST: ms.Tensor) -> ms.Tensor:
        """Normalised hidden states `(B, S, D)` in the compute type."""
        cos_BS1H, sin_BS1H = self.rotary(input_ids_BS.shape[1], position_ids_BS)
        x_BSD = self.tok_embeddings(input_ids_BS)
        for block in self.layers:
            x_BSD = block(x_BSD, cos_BS1H, sin_BS1H, mask_B11ST)
        return self.norm_out(x_BSD)
