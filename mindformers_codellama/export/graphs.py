"""The graphs that are exported: a network read through a key/value cache held in Parameters, in MindSpore's standard operators.

Inputs have MindFormers 1.0's order and types (`mindir.protocol`). Shape letters: B rows, C tokens of a call, S positions of
the cache, A positions that are looked at, K key/value heads of this rank, H head, D hidden, V vocabulary, L layers.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.backends.cells import row_index
from mindformers_codellama.mindir.protocol import FULL, INC, LOGITS, SINGLE, STATIC_INPUTS, Signature, TensorSpec
from mindformers_codellama.model.attention import additive_mask
from mindformers_codellama.model.edges import logits_edge
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.runtime.dtypes import mindspore_dtype


class Caches(nn.Cell):
    """Keys and values of every layer, zeros in the compute type. The graphs of one export share the object.

    Args:
        network: whole, or one rank's part.
        rows: B.
        blocks: P, of a pool `(P, E, K, H)` that rows share; 0 gives each row its own positions, `(B, K, S, H)`.
        block_size: E.
    """

    def __init__(self, network: LlamaNetwork, rows: int, *, blocks: int = 0, block_size: int = 0) -> None:
        super().__init__(auto_prefix=False)
        config = network.config
        self.rows, self.positions, self.block_size = rows, config.seq_length, block_size
        self.num_kv_heads = network.part.share(config.num_kv_heads)
        own = (rows, self.num_kv_heads, config.seq_length, config.head_dim)
        zeros = np.zeros((blocks, block_size, self.num_kv_heads, config.head_dim) if blocks else own, np.float32)

        def cache(name: str) -> ms.Parameter:
            return ms.Parameter(ms.Tensor(zeros).astype(mindspore_dtype(config.compute_dtype)), name=name, requires_grad=False)

        self.keys = ms.ParameterTuple([cache(f"key_past.{i}") for i in range(config.num_layers)])
        self.values = ms.ParameterTuple([cache(f"value_past.{i}") for i in range(config.num_layers)])


class CachedGraph(nn.Cell):
    """What the graphs have in common.

    Args:
        network: whole, or one rank's part with all layers. Its weights are used, not copied.
        caches: what the graph reads and writes.
    """

    def __init__(self, network: LlamaNetwork, caches: Caches) -> None:
        super().__init__(auto_prefix=False)
        config = network.config
        self.network = network
        self.rows, self.positions, self.num_kv_heads = caches.rows, caches.positions, caches.num_kv_heads
        self.keys, self.values = caches.keys, caches.values
        self.num_layers = config.num_layers
        agree = logits_edge(network.part)
        self.agrees = agree is not None
        if agree is not None:
            self.agree = agree
        self.mask_dtype = mindspore_dtype(config.softmax_compute_dtype)
        self.order_S = ms.Tensor(np.arange(caches.positions, dtype=np.int32))
        self.row_B1 = row_index(caches.rows)
        self.first_B1 = ms.Tensor(np.zeros((caches.rows, 1), np.int32))
        self.head_1K11 = ms.Tensor(np.arange(caches.num_kv_heads, dtype=np.int32).reshape(1, -1, 1, 1))
        self.write = ops.ScatterNdUpdate(use_locking=False)
        self.write_rows = ops.ScatterUpdate(use_locking=False)

    def finish(self, x_BCD: ms.Tensor, last_B1: ms.Tensor) -> ms.Tensor:
        """float32 logits `(B, V)` of token `last_B1` of each row, the same on all ranks."""
        x_BD = ops.gather_nd(x_BCD, ops.concat((self.row_B1, last_B1), 1))  # logits_at would branch on C, which may be unknown
        x_B1D = self.network.model.norm_out(ops.expand_dims(x_BD, 1))
        logits_BV = ops.reshape(self.network.head(x_B1D), (self.rows, -1))
        return self.agree(logits_BV) if self.agrees else logits_BV

    def places(self, positions_BC: ms.Tensor, batch_index_B: ms.Tensor) -> ms.Tensor:
        """int32 `(B, K, C, 3)`: row, head and position every new key goes to."""
        rows, count = positions_BC.shape
        shape = (rows, self.num_kv_heads, count, 1)
        row_BKC1 = ops.broadcast_to(ops.reshape(ops.cast(batch_index_B, ms.int32), (rows, 1, 1, 1)), shape)
        position_BKC1 = ops.broadcast_to(ops.reshape(positions_BC, (rows, 1, count, 1)), shape)
        return ops.concat((row_BKC1, ops.broadcast_to(self.head_1K11, shape), position_BKC1), -1)


class FullGraph(CachedGraph):
    """Reads prompts of exactly S positions, right padded; the caches are written whole and not read."""

    def construct(self, input_ids: ms.Tensor, batch_valid_length: ms.Tensor, batch_index: ms.Tensor, zactivate_len: ms.Tensor) -> ms.Tensor:
        """Logits after each prompt's last token; shapes and types in `signature`."""
        stack = self.network.model
        order_1S = ops.reshape(self.order_S, (1, self.positions))
        visible_1SS = ops.expand_dims(order_1S <= ops.reshape(self.order_S, (self.positions, 1)), 0)
        mask_111SS = additive_mask(visible_1SS, self.mask_dtype)
        cos_1S1H, sin_1S1H = stack.rotary(self.positions)
        x_BSD = stack.tok_embeddings(input_ids)
        for index in range(self.num_layers):
            block = stack.layers[index]
            q_BSNH, k_BKSH, v_BKSH = block.attention.project(block.attention_norm(x_BSD), cos_1S1H, sin_1S1H)
            self.write_rows(self.keys[index], batch_index, k_BKSH)
            self.write_rows(self.values[index], batch_index, v_BKSH)
            x_BSD = x_BSD + block.attention.attend(q_BSNH, k_BKSH, v_BKSH, mask_111SS)
            x_BSD = x_BSD + block.feed_forward(block.ffn_norm(x_BSD))
        return self.finish(x_BSD, ops.reshape(batch_valid_length - 1, (self.rows, 1)))


class StepGraph(CachedGraph):
    """Reads one more token of every row at its own position and looks at all S positions of the cache."""

    def construct(self, input_ids: ms.Tensor, batch_valid_length: ms.Tensor, batch_index: ms.Tensor, zactivate_len: ms.Tensor) -> ms.Tensor:
        """Logits after the token; shapes and types in `signature`."""
        stack = self.network.model
        positions_B1 = ops.reshape(batch_valid_length - 1, (self.rows, 1))
        visible_B1S = ops.reshape(self.order_S, (1, 1, self.positions)) <= ops.expand_dims(positions_B1, 2)
        mask_B111S = additive_mask(visible_B1S, self.mask_dtype)
        cos_B11H, sin_B11H = stack.rotary(1, positions_B1)
        place_BK13 = self.places(positions_B1, batch_index)
        x_B1D = stack.tok_embeddings(input_ids)
        for index in range(self.num_layers):
            block = stack.layers[index]
            q_B1NH, k_BK1H, v_BK1H = block.attention.project(block.attention_norm(x_B1D), cos_B11H, sin_B11H)
            k_BKSH = self.write(self.keys[index], place_BK13, k_BK1H)
            v_BKSH = self.write(self.values[index], place_BK13, v_BK1H)
            x_B1D = x_B1D + block.attention.attend(q_B1NH, k_BKSH, v_BKSH, mask_B111S)
            x_B1D = x_B1D + block.feed_forward(block.ffn_norm(x_B1D))
        return self.finish(x_B1D, self.first_B1)


class AnyGraph(CachedGraph):
    """Of dynamic shapes: reads C tokens of every row and looks at the first A positions of the cache.

    More than one token per row is a prompt, which begins at position 0; one token stands at the end of its row. So one
    graph serves prompts and steps.
    """

    def construct(self, input_ids: ms.Tensor, batch_valid_length: ms.Tensor, batch_index: ms.Tensor, zactivate_len: ms.Tensor) -> ms.Tensor:
        """Logits after each row's last token; shapes and types in `signature`."""
        stack = self.network.model
        count, active = input_ids.shape[1], zactivate_len.shape[0]
        last_B1 = ops.reshape(batch_valid_length - 1, (self.rows, 1))
        is_step_1C = ops.cast(ops.equal(ops.sum(ops.ones_like(input_ids), 1, keepdim=True), 1), ms.int32)
        positions_BC = last_B1 * is_step_1C + ops.reshape(self.order_S[:count], (1, count))
        visible_BCA = ops.reshape(self.order_S[:active], (1, 1, active)) <= ops.expand_dims(positions_BC, 2)
        mask_B11CA = additive_mask(visible_BCA, self.mask_dtype)
        cos_BC1H, sin_BC1H = stack.rotary(count, positions_BC)
        place_BKC3 = self.places(positions_BC, batch_index)
        x_BCD = stack.tok_embeddings(input_ids)
        for index in range(self.num_layers):
            block = stack.layers[index]
            q_BCNH, k_BKCH, v_BKCH = block.attention.project(block.attention_norm(x_BCD), cos_BC1H, sin_BC1H)
            k_BKAH = self.write(self.keys[index], place_BKC3, k_BKCH)[:, :, :active]
            v_BKAH = self.write(self.values[index], place_BKC3, v_BKCH)[:, :, :active]
            x_BCD = x_BCD + block.attention.attend(q_BCNH, k_BKAH, v_BKAH, mask_B11CA)
            x_BCD = x_BCD + block.feed_forward(block.ffn_norm(x_BCD))
        return self.finish(x_BCD, last_B1 * (1 - is_step_1C))


GRAPHS: dict[tuple[str, bool], type[CachedGraph]] = {
    (FULL, False): FullGraph,
    (INC, False): StepGraph,
    (FULL, True): AnyGraph,
    (INC, True): AnyGraph,
    (SINGLE, True): AnyGraph,
}
"""Role and whether shapes are dynamic, to the graph."""


def signature(role: str, *, rows: int, positions: int, vocab_size: int, dynamic: bool) -> Signature:
    """Inputs and output of a graph.

    Args:
        role: `full`, `inc` or `single`.
        rows: B.
        positions: S.
        vocab_size: V.
        dynamic: lengths may be any.
    """
    tokens = 1 if role == INC else None if dynamic else positions
    shapes: list[tuple[str, tuple[int | None, ...]]] = [
        ("int32", (rows, tokens)),
        ("int32", (rows,)),
        ("int64", (rows,)),
        ("int64", (None if dynamic else positions,)),
    ]
    inputs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in zip(STATIC_INPUTS, shapes, strict=True))
    return Signature(inputs=inputs, outputs=(TensorSpec(name=LOGITS, dtype="float32", shape=(rows, vocab_size)),))


def placeholders(spec: Signature) -> list[ms.Tensor]:
    """Tensors of the inputs' types and shapes: zeros, or without values where a size is unknown."""
    tensors = []
    for one in spec.inputs:
        known = [size for size in one.shape if size is not None]
        whole = len(known) == len(one.shape)
        tensors.append(ms.Tensor(np.zeros(known, one.dtype)) if whole else ms.Tensor(shape=list(one.shape), dtype=getattr(ms, one.dtype)))
    return tensors
