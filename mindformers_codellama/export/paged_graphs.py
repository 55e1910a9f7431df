"""Graphs whose rows share a pool of blocks: MindFormers 1.0's inputs of paged attention, in standard operators.

A slot is `block * block size + offset`. Block 0 belongs to no row: what padding (slot -1) would write goes there. Shape letters
as in `graphs`; besides P blocks in all, E positions of a block, W = S / E blocks of a row.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import ops

from mindformers_codellama.export.graphs import CachedGraph, Caches
from mindformers_codellama.mindir.protocol import FULL, INC, LOGITS, PAGED_FULL_INPUTS, PAGED_INC_INPUTS, Signature, TensorSpec
from mindformers_codellama.model.attention import additive_mask
from mindformers_codellama.model.llama import LlamaNetwork


class PagedGraph(CachedGraph):
    """What both have in common; caches are `(P, E, K, H)`."""

    def __init__(self, network: LlamaNetwork, caches: Caches) -> None:
        super().__init__(network, caches)
        self.block_size = caches.block_size
        self.head_dim = network.config.head_dim

    def slots(self, slot_mapping: ms.Tensor) -> ms.Tensor:
        """int32 `(n, 2)`: block and offset of every token."""
        slot = ops.maximum(slot_mapping, 0)
        block = ops.floor_divide(slot, self.block_size)
        return ops.stack((block, slot - block * self.block_size), 1)

    def rows_of(self, x_BKCH: ms.Tensor, count: int) -> ms.Tensor:
        """`(B * C, K, H)`: one key per token, as the blocks hold them."""
        return ops.reshape(ops.transpose(x_BKCH, (0, 2, 1, 3)), (self.rows * count, self.num_kv_heads, self.head_dim))


class PagedFullGraph(PagedGraph):
    """Reads prompts of exactly S positions, right padded; blocks are written and not read."""

    def construct(self, input_ids: ms.Tensor, batch_valid_length: ms.Tensor, slot_mapping: ms.Tensor) -> ms.Tensor:
        """Logits after each prompt's last token; shapes and types in `paged_signature`."""
        stack = self.network.model
        visible_1SS = ops.expand_dims(ops.reshape(self.order_S, (1, self.positions)) <= ops.reshape(self.order_S, (self.positions, 1)), 0)
        mask_111SS = additive_mask(visible_1SS, self.mask_dtype)
        cos_1S1H, sin_1S1H = stack.rotary(self.positions)
        place = self.slots(slot_mapping)
        x_BSD = stack.tok_embeddings(input_ids)
        for index in range(self.num_layers):
            block = stack.layers[index]
            q_BSNH, k_BKSH, v_BKSH = block.attention.project(block.attention_norm(x_BSD), cos_1S1H, sin_1S1H)
            self.write(self.keys[index], place, self.rows_of(k_BKSH, self.positions))
            self.write(self.values[index], place, self.rows_of(v_BKSH, self.positions))
            x_BSD = x_BSD + block.attention.attend(q_BSNH, k_BKSH, v_BKSH, mask_111SS)
            x_BSD = x_BSD + block.feed_forward(block.ffn_norm(x_BSD))
        return self.finish(x_BSD, ops.reshape(batch_valid_length - 1, (self.rows, 1)))


class PagedStepGraph(PagedGraph):
    """Reads one more token of every row, and the blocks of its row."""

    def construct(self, input_ids: ms.Tensor, batch_valid_length: ms.Tensor, block_tables: ms.Tensor, slot_mapping: ms.Tensor) -> ms.Tensor:
        """Logits after the token; shapes and types in `paged_signature`."""
        stack = self.network.model
        positions_B1 = ops.reshape(batch_valid_length - 1, (self.rows, 1))
        visible_B1S = ops.reshape(self.order_S, (1, 1, self.positions)) <= ops.expand_dims(positions_B1, 2)
        mask_B111S = additive_mask(visible_B1S, self.mask_dtype)
        cos_B11H, sin_B11H = stack.rotary(1, positions_B1)
        place = self.slots(slot_mapping)
        x_B1D = stack.tok_embeddings(input_ids)
        for index in range(self.num_layers):
            block = stack.layers[index]
            q_B1NH, k_BK1H, v_BK1H = block.attention.project(block.attention_norm(x_B1D), cos_B11H, sin_B11H)
            k_BKSH = self.read(self.write(self.keys[index], place, self.rows_of(k_BK1H, 1)), block_tables)
            v_BKSH = self.read(self.write(self.values[index], place, self.rows_of(v_BK1H, 1)), block_tables)
            x_B1D = x_B1D + block.attention.attend(q_B1NH, k_BKSH, v_BKSH, mask_B111S)
            x_B1D = x_B1D + block.feed_forward(block.ffn_norm(x_B1D))
        return self.finish(x_B1D, self.first_B1)

    def read(self, cache_PEKH: ms.Tensor, block_tables: ms.Tensor) -> ms.Tensor:
        """`(B, K, S, H)`: the blocks of each row in order."""
        shape = (self.rows, self.positions, self.num_kv_heads, self.head_dim)
        return ops.transpose(ops.reshape(ops.gather(cache_PEKH, block_tables, 0), shape), (0, 2, 1, 3))


PAGED_GRAPHS: dict[str, type[PagedGraph]] = {FULL: PagedFullGraph, INC: PagedStepGraph}


def paged_signature(role: str, *, rows: int, positions: int, vocab_size: int, block_size: int) -> Signature:
    """Inputs and output of a graph.

    Args:
        role: `full` or `inc`.
        rows: B.
        positions: S.
        vocab_size: V.
        block_size: E, which divides S.
    """
    if role == FULL:
        shapes: list[tuple[int, ...]] = [(rows, positions), (rows,), (rows * positions,)]
        names: tuple[str, ...] = PAGED_FULL_INPUTS
    else:
        shapes, names = [(rows, 1), (rows,), (rows, positions // block_size), (rows,)], PAGED_INC_INPUTS
    inputs = tuple(TensorSpec(name=name, dtype="int32", shape=shape) for name, shape in zip(names, shapes, strict=True))
    return Signature(inputs=inputs, outputs=(TensorSpec(name=LOGITS, dtype="float32", shape=(rows, vocab_size)),))
