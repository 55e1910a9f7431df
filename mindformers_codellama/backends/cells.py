"""The graphs behind `MindSporeDecoder`: forward through a key/value cache, and without one.

Both hold a `LlamaNetwork` and share its weights. Shape letters: B rows, C new tokens of each row,
T cache positions, K key/value heads of this rank, H head, D hidden, V vocabulary, L layers. Of a network cut over
ranks each rank caches its own heads, and all end with the same logits.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.model.attention import additive_mask
from mindformers_codellama.model.edges import logits_edge
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.runtime.dtypes import mindspore_dtype


def row_index(rows: int) -> ms.Tensor:
    """int32 `(rows, 1)`: 0..rows-1."""
    return ms.Tensor(np.arange(rows, dtype=np.int32).reshape(rows, 1))


class CachedForward(nn.Cell):
    """Reads C more tokens of every row; keys and values stay in Parameters `(B, K, T, H)`, one pair per layer.

    The cache is written in place by `ScatterNdUpdate`: as fast as passing the cache in and out at
    T = 256, faster beyond (3.8 against 4.7 ms at T = 2048, four layers of 256), and nothing is copied
    between calls. One object serves one B and T; every C gets a graph of its own.

    Args:
        network: supplies weights, norms and rotary tables; has all layers.
        rows: B.
        positions: T.
    """

    def __init__(self, network: LlamaNetwork, rows: int, positions: int) -> None:
        super().__init__(auto_prefix=False)
        config = network.config
        self.network = network
        self.rows = rows
        self.positions = positions
        self.num_layers = config.num_layers
        self.num_kv_heads = network.part.share(config.num_kv_heads)
        agree = logits_edge(network.part)
        self.agrees = agree is not None
        if agree is not None:
            self.agree = agree
        self.last_position = config.seq_length - 1
        self.mask_dtype = mindspore_dtype(config.softmax_compute_dtype)
        self.cache_dtype = mindspore_dtype(config.compute_dtype)
        zeros_BKTH = np.zeros((rows, self.num_kv_heads, positions, config.head_dim), np.float32)

        def cache(name: str) -> ms.Parameter:
            # names must differ between all caches that one graph may see
            return ms.Parameter(ms.Tensor(zeros_BKTH).astype(self.cache_dtype), name=f"{name}_{rows}x{positions}", requires_grad=False)

        self.keys = ms.ParameterTuple([cache(f"key_past.{i}") for i in range(config.num_layers)])
        self.values = ms.ParameterTuple([cache(f"value_past.{i}") for i in range(config.num_layers)])
        self.write = ops.ScatterNdUpdate(use_locking=False)
        row_head = np.stack(np.meshgrid(np.arange(rows), np.arange(self.num_kv_heads), indexing="ij"), axis=-1)
        self.row_head_BK12 = ms.Tensor(row_head[:, :, None, :].astype(np.int32))
        self.order_T = ms.Tensor(np.arange(positions, dtype=np.int32))
        self.row_B1 = row_index(rows)

    @ms.jit
    def construct(self, tokens_BC: ms.Tensor, positions_BC: ms.Tensor, last_B1: ms.Tensor) -> ms.Tensor:
        """Logits after one token of each row.

        Args:
            tokens_BC: int32; padding may follow a row's tokens, its keys are hidden from all real tokens.
            positions_BC: int32 in [0, T); where each token stands in its row.
            last_B1: int32 in [0, C); the token whose logits are wanted.

        Returns:
            float32 `(B, V)`.
        """
        stack = self.network.model
        count = tokens_BC.shape[1]
        cos_BC1H, sin_BC1H = stack.rotary(count, ops.minimum(positions_BC, self.last_position))
        visible_BCT = ops.reshape(self.order_T, (1, 1, self.positions)) <= ops.expand_dims(positions_BC, 2)
        mask_B11CT = additive_mask(visible_BCT, self.mask_dtype)
        place_BKC3 = self.places(positions_BC, count)
        x_BCD = stack.tok_embeddings(tokens_BC)
        for index in range(self.num_layers):
            block = stack.layers[index]
            q_BCNH, k_BKCH, v_BKCH = block.attention.project(block.attention_norm(x_BCD), cos_BC1H, sin_BC1H)
            k_BKTH = self.write(self.keys[index], place_BKC3, k_BKCH)
            v_BKTH = self.write(self.values[index], place_BKC3, v_BKCH)
            x_BCD = x_BCD + block.attention.attend(q_BCNH, k_BKTH, v_BKTH, mask_B11CT)
            x_BCD = x_BCD + block.feed_forward(block.ffn_norm(x_BCD))
        logits_BV = logits_at(self.network, x_BCD, last_B1, self.row_B1)
        return self.agree(logits_BV) if self.agrees else logits_BV

    def places(self, positions_BC: ms.Tensor, count: int) -> ms.Tensor:
        """int32 `(B, K, C, 3)`: row, head and position every new key goes to."""
        row_head_BKC2 = ops.broadcast_to(self.row_head_BK12, (self.rows, self.num_kv_heads, count, 2))
        positions_B1C1 = ops.reshape(positions_BC, (self.rows, 1, count, 1))
        return ops.concat((row_head_BKC2, ops.broadcast_to(positions_B1C1, (self.rows, self.num_kv_heads, count, 1))), -1)


def logits_at(network: LlamaNetwork, x_BCD: ms.Tensor, last_B1: ms.Tensor, row_B1: ms.Tensor) -> ms.Tensor:
    """float32 `(B, V)`, this rank's V when it is cut: norm and head of one position per row; the others cost nothing."""
    rows, count, size = x_BCD.shape
    if count > 1:
        x_BCD = ops.reshape(ops.gather_nd(x_BCD, ops.concat((row_B1, last_B1), 1)), (rows, 1, size))
    return ops.reshape(network.head(network.model.norm_out(x_BCD)), (rows, -1))


class ReorderCache(nn.Cell):
    """Row i of every cache becomes what row `rows_B[i]` was."""

    def __init__(self, cached: CachedForward) -> None:
        super().__init__(auto_prefix=False)
        self.caches = ms.ParameterTuple(list(cached.keys) + list(cached.values))
        self.gather = ops.Gather()

    @ms.jit
    def construct(self, rows_B: ms.Tensor) -> ms.Tensor:
        """int32 rows; gives them back."""
        for cache in self.caches:
            ops.assign(cache, self.gather(cache, rows_B, 0))
        return rows_B


class GrowCache(nn.Cell):
    """Copies the caches of one `CachedForward` to the beginning of a longer one's; the rest becomes 0."""

    def __init__(self, source: CachedForward, target: CachedForward) -> None:
        super().__init__(auto_prefix=False)
        self.sources = ms.ParameterTuple(list(source.keys) + list(source.values))
        self.targets = ms.ParameterTuple(list(target.keys) + list(target.values))
        rows, heads, positions, size = source.keys[0].shape
        missing = np.zeros((rows, heads, target.positions - positions, size), np.float32)
        self.missing = ms.Tensor(missing).astype(source.cache_dtype)

    @ms.jit
    def construct(self, count: ms.Tensor) -> ms.Tensor:
        """Takes and gives back any tensor: a graph needs one."""
        for index in range(len(self.sources)):
            ops.assign(self.targets[index], ops.concat((self.sources[index], self.missing), 2))
        return count


class UncachedForward(nn.Cell):
    """Reads whole rows again for every new token: no memory between calls, no cache to allocate."""

    def __init__(self, network: LlamaNetwork, rows: int) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.mask_dtype = mindspore_dtype(network.config.softmax_compute_dtype)
        self.row_B1 = row_index(rows)
        agree = logits_edge(network.part)
        self.agrees = agree is not None
        if agree is not None:
            self.agree = agree

    @ms.jit
    def construct(self, tokens_BC: ms.Tensor, last_B1: ms.Tensor) -> ms.Tensor:
        """float32 `(B, V)` after token `last_B1` of each right-padded row of int32 `tokens_BC`."""
        count = tokens_BC.shape[1]
        order_C = ops.arange(count)
        visible_1CC = ops.reshape(order_C, (1, 1, count)) <= ops.reshape(order_C, (1, count, 1))
        stack = self.network.model
        cos_1C1H, sin_1C1H = stack.rotary(count)
        mask_111CC = additive_mask(visible_1CC, self.mask_dtype)
        x_BCD = stack.tok_embeddings(tokens_BC)
        for block in stack.layers:
            x_BCD = block.plain(x_BCD, cos_1C1H, sin_1C1H, mask_111CC)
        logits_BV = logits_at(self.network, x_BCD, last_B1, self.row_B1)
        return self.agree(logits_BV) if self.agrees else logits_BV
