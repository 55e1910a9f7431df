"""Grouped-query attention (arXiv 2305.13245), and the additive masks it takes.

Shape letters: B batch, S query positions, T key positions, D hidden, N query heads, K key/value heads,
G = N / K, H head. Query head n reads key/value head n // G (consecutive repeat, as Hugging Face).
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.model.edges import layer_edges
from mindformers_codellama.model.linear import Linear
from mindformers_codellama.model.part import WHOLE, NetworkPart
from mindformers_codellama.model.rope import rotate
from mindformers_codellama.runtime.dtypes import mindspore_dtype

MASKED_SCORE = -10000.0
"""Added to a score that may not be seen; exp underflows to 0 in float16 and float32 (MindFormers' value)."""


class Attention(nn.Cell):
    """Causal self-attention of one block; what may be seen is decided by the mask it is given.

    `project` and `attend` are the two halves of `construct`, so that a key/value cache can stand
    between them. Cut over ranks, N and K are the heads held here; a group of query heads stays with its key/value head.
    """

    def __init__(self, config: ModelConfig, part: NetworkPart = WHOLE) -> None:
        super().__init__()
        self.num_heads = part.share(config.num_heads)
        self.num_kv_heads = part.share(config.num_kv_heads)
        self.head_dim = config.head_dim
        self.group = config.num_heads // config.num_kv_heads
        self.scale = 1.0 / math.sqrt(config.head_dim)
        self.softmax_dtype = mindspore_dtype(config.softmax_compute_dtype)
        self.compute_dtype = mindspore_dtype(config.compute_dtype)
        param_dtype = mindspore_dtype(config.param_init_dtype)

        enter, leave = layer_edges(part)
        self.enters = enter is not None
        if enter is not None:
            self.enter = enter

        def linear(in_size: int, out_size: int, has_bias: bool, leave: nn.Cell | None = None) -> Linear:
            return Linear(in_size, out_size, compute_dtype=self.compute_dtype, param_dtype=param_dtype, has_bias=has_bias, leave=leave)

        width = self.num_heads * config.head_dim
        kv_width = self.num_kv_heads * config.head_dim
        self.wq = linear(config.hidden_size, width, config.qkv_has_bias)
        self.wk = linear(config.hidden_size, kv_width, config.qkv_has_bias)
        self.wv = linear(config.hidden_size, kv_width, config.qkv_has_bias)
        self.wo = linear(width, config.hidden_size, False, leave)
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.softmax = ops.Softmax(-1)

    def construct(self, x_BSD: ms.Tensor, cos_BS1H: ms.Tensor, sin_BS1H: ms.Tensor, mask_B11ST: ms.Tensor) -> ms.Tensor:
        """`(B, S, D)` to the same shape; keys are the row's own positions (T = S).

        When positions are cut, D rows come and go as `(B, S / degree, D)`; everything between has all of S.
        """
        q_BSNH, k_BKTH, v_BKTH = self.project(x_BSD, cos_BS1H, sin_BS1H)
        return self.attend(q_BSNH, k_BKTH, v_BKTH, mask_B11ST)

    def project(self, x_BSD: ms.Tensor, cos_BS1H: ms.Tensor, sin_BS1H: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Rotated queries `(B, S, N, H)`, rotated keys and values `(B, K, S, H)`."""
        if self.enters:
            x_BSD = self.enter(x_BSD)
        batch, length, _ = x_BSD.shape
        q_BSNH = ops.reshape(self.wq(x_BSD), (batch, length, self.num_heads, self.head_dim))
        k_BSKH = ops.reshape(self.wk(x_BSD), (batch, length, self.num_kv_heads, self.head_dim))
        v_BSKH = ops.reshape(self.wv(x_BSD), (batch, length, self.num_kv_heads, self.head_dim))
        q_BSNH = rotate(q_BSNH, cos_BS1H, sin_BS1H)
        k_BSKH = rotate(k_BSKH, cos_BS1H, sin_BS1H)
        return q_BSNH, ops.transpose(k_BSKH, (0, 2, 1, 3)), ops.transpose(v_BSKH, (0, 2, 1, 3))

    def attend(self, q_BSNH: ms.Tensor, k_BKTH: ms.Tensor, v_BKTH: ms.Tensor, mask_B11ST: ms.Tensor) -> ms.Tensor:
        """Mix values by masked scores and project: `(B, S, D)` in the compute type.

        The G query heads of a group are laid along the position dim, so keys and values are never
        repeated in memory. Scaling comes before the product: float16 scores overflow later.
        """
        batch, length = q_BSNH.shape[:2]
        keys = k_BKTH.shape[2]
        q_BSKGH = ops.reshape(q_BSNH * self.scale, (batch, length, self.num_kv_heads, self.group, self.head_dim))
        q_BKXH = ops.reshape(ops.transpose(q_BSKGH, (0, 2, 3, 1, 4)), (batch, self.num_kv_heads, self.group * length, self.head_dim))
        scores_BKXT = ops.cast(self.scores(q_BKXH, k_BKTH), self.softmax_dtype)
        scores_BKGST = ops.reshape(scores_BKXT, (batch, self.num_kv_heads, self.group, length, keys)) + mask_B11ST
        weights_BKGST = ops.cast(self.softmax(scores_BKGST), self.compute_dtype)
        weights_BKXT = ops.reshape(weights_BKGST, (batch, self.num_kv_heads, self.group * length, keys))
        mixed_BKGSH = ops.reshape(self.mix(weights_BKXT, v_BKTH), (batch, self.num_kv_heads, self.group, length, self.head_dim))
        mixed_BSD = ops.reshape(ops.transpose(mixed_BKGSH, (0, 3, 1, 2, 4)), (batch, length, self.num_heads * self.head_dim))
        return self.wo(mixed_BSD)


def additive_mask(visible_BST: ms.Tensor, dtype: ms.Type) -> ms.Tensor:
    """`(B or 1, 1, 1, S, T)`: 0 where `visible_BST` (bool) is true, `MASKED_SCORE` elsewhere."""
    batch, length, keys = visible_BST.shape
    hidden_BST = 1.0 - ops.cast(visible_BST, dtype)
    return ops.reshape(hidden_BST * MASKED_SCORE, (batch, 1, 1, length, keys))
