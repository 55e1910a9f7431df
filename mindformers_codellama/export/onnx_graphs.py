"""Graphs for ONNX: the cache goes in and comes out, and every operator is one that MindSpore's ONNX export knows.

MindSpore 2.10 exports no Rsqrt, SiLU or LogicalNot, no unknown sizes, and silently drops what is written to Parameters.
Shape letters as in `graphs`.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindformers_codellama.backends.cells import row_index
from mindformers_codellama.mindir.protocol import FULL, INC, INPUT_IDS, LOGITS, VALID_LENGTH, Signature, TensorSpec
from mindformers_codellama.model.attention import MASKED_SCORE
from mindformers_codellama.model.decoder import DecoderBlock
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.norm import RMSNorm


class OnnxGraph(nn.Cell):
    """What both graphs have in common; float32, one rank.

    Args:
        network: its weights are used.
        rows: B.
        tokens: C.
    """

    def __init__(self, network: LlamaNetwork, rows: int, tokens: int) -> None:
        super().__init__(auto_prefix=False)
        config = network.config
        self.network, self.rows, self.tokens = network, rows, tokens
        self.num_layers, self.positions, self.hidden_size = config.num_layers, config.seq_length, config.hidden_size
        self.num_kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
        self.order_S = ms.Tensor(np.arange(config.seq_length, dtype=np.int32))
        self.row_B1 = row_index(rows)
        row_head = np.stack(np.meshgrid(np.arange(rows), np.arange(self.num_kv_heads), indexing="ij"), axis=-1).astype(np.int32)
        self.row_head_BK12 = ms.Tensor(row_head[:, :, None, :])
        self.gather, self.sqrt, self.sigmoid = ops.Gather(), ops.Sqrt(), ops.Sigmoid()
        self.mean, self.at_most, self.update = ops.ReduceMean(keep_dims=True), ops.LessEqual(), ops.TensorScatterUpdate()

    def norm(self, x_BCD: ms.Tensor, cell: RMSNorm) -> ms.Tensor:
        """As `model.norm.RMSNorm`, by a square root and a division."""
        return x_BCD / self.sqrt(self.mean(x_BCD * x_BCD, -1) + cell.eps) * cell.weight

    def feed_forward(self, x_BCD: ms.Tensor, block: DecoderBlock) -> ms.Tensor:
        """As `model.feed_forward.FeedForward`."""
        inner = block.feed_forward
        gate = inner.w1(x_BCD)
        return inner.w2(gate * self.sigmoid(gate) * inner.w3(x_BCD))

    def where(self, positions_BC: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Cosines, sines and mask of tokens at these positions."""
        shape = (self.rows, self.tokens, 1, self.head_dim)
        rotary = self.network.model.rotary
        cos_BC1H = ops.reshape(self.gather(rotary.cos_PH, positions_BC, 0), shape)
        sin_BC1H = ops.reshape(self.gather(rotary.sin_PH, positions_BC, 0), shape)
        keys = ops.reshape(self.order_S, (1, 1, self.positions))
        visible = ops.cast(self.at_most(keys, ops.reshape(positions_BC, (self.rows, self.tokens, 1))), ms.float32)
        mask = ops.reshape((1.0 - visible) * MASKED_SCORE, (self.rows, 1, 1, self.tokens, self.positions))
        return cos_BC1H, sin_BC1H, mask

    def logits(self, x_B1D: ms.Tensor) -> ms.Tensor:
        """float32 `(B, V)`."""
        return ops.reshape(self.network.head(self.norm(x_B1D, self.network.model.norm_out)), (self.rows, -1))


class OnnxFullGraph(OnnxGraph):
    """Reads prompts of S positions, right padded; gives logits, and keys and values of every layer `(B, K, S, H)`."""

    def construct(self, input_ids: ms.Tensor, batch_valid_length: ms.Tensor) -> tuple[ms.Tensor, ...]:
        """Logits, then key, value of layer 0, of layer 1, ..."""
        stack = self.network.model
        positions_BS = ops.tile(ops.reshape(self.order_S, (1, self.positions)), (self.rows, 1))
        cos_BS1H, sin_BS1H, mask = self.where(positions_BS)
        x_BSD = stack.tok_embeddings(input_ids)
        caches: tuple[ms.Tensor, ...] = ()
        for index in range(self.num_layers):
            block = stack.layers[index]
            q_BSNH, k_BKSH, v_BKSH = block.attention.project(self.norm(x_BSD, block.attention_norm), cos_BS1H, sin_BS1H)
            caches = caches + (k_BKSH, v_BKSH)
            x_BSD = x_BSD + block.attention.attend(q_BSNH, k_BKSH, v_BKSH, mask)
            x_BSD = x_BSD + self.feed_forward(self.norm(x_BSD, block.ffn_norm), block)
        last_B2 = ops.concat((self.row_B1, ops.reshape(batch_valid_length - 1, (self.rows, 1))), 1)
        x_B1D = ops.reshape(ops.gather_nd(x_BSD, last_B2), (self.rows, 1, self.hidden_size))
        return (self.logits(x_B1D),) + caches


class OnnxStepGraph(OnnxGraph):
    """Reads one more token of every row; caches `(B, K, S, H)` go in and come out with one key more."""

    def construct(self, input_ids: ms.Tensor, batch_valid_length: ms.Tensor, *caches: ms.Tensor) -> tuple[ms.Tensor, ...]:
        """Logits, then the caches in the order they came."""
        stack = self.network.model
        positions_B1 = ops.reshape(batch_valid_length - 1, (self.rows, 1))
        cos_B11H, sin_B11H, mask = self.where(positions_B1)
        positions_BK11 = ops.tile(ops.reshape(positions_B1, (self.rows, 1, 1, 1)), (1, self.num_kv_heads, 1, 1))
        place_BK13 = ops.concat((self.row_head_BK12, positions_BK11), -1)
        x_B1D = stack.tok_embeddings(input_ids)
        new: tuple[ms.Tensor, ...] = ()
        for index in range(self.num_layers):
            block = stack.layers[index]
            q_B1NH, k_BK1H, v_BK1H = block.attention.project(self.norm(x_B1D, block.attention_norm), cos_B11H, sin_B11H)
            k_BKSH = self.update(caches[2 * index], place_BK13, k_BK1H)
            v_BKSH = self.update(caches[2 * index + 1], place_BK13, v_BK1H)
            new = new + (k_BKSH, v_BKSH)
            x_B1D = x_B1D + block.attention.attend(q_B1NH, k_BKSH, v_BKSH, mask)
            x_B1D = x_B1D + self.feed_forward(self.norm(x_B1D, block.ffn_norm), block)
        return (self.logits(x_B1D),) + new


def onnx_graph(role: str, network: LlamaNetwork, rows: int) -> tuple[OnnxGraph, Signature]:
    """A graph for ONNX and what it takes and gives; `role` is `full` or `inc`."""
    config = network.config
    tokens = {FULL: config.seq_length, INC: 1}[role]
    caches = tuple(
        TensorSpec(name=f"{kind}_past.{layer}", dtype="float32", shape=(rows, config.num_kv_heads, config.seq_length, config.head_dim))
        for layer in range(config.num_layers)
        for kind in ("key", "value")
    )
    inputs = (
        TensorSpec(name=INPUT_IDS, dtype="int32", shape=(rows, tokens)),
        TensorSpec(name=VALID_LENGTH, dtype="int32", shape=(rows,)),
    )
    logits = TensorSpec(name=LOGITS, dtype="float32", shape=(rows, config.vocab_size))
    cell = OnnxFullGraph(network, rows, tokens) if role == FULL else OnnxStepGraph(network, rows, tokens)
    return cell, Signature(inputs=inputs if role == FULL else inputs + caches, outputs=(logits, *caches))
