"""Logits of every position of given rows, from a network or from packed weights.

Shape letters: B rows, S positions, C positions of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.backends.fused_decoder import FusedDecoder
from mindformers_codellama.model.inputs import check_token_ids
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.pipelines.compare_weights import Floats, RowLogits
from mindformers_codellama.pipelines.generating import CausalLM
from mindformers_codellama.pipelines.packed_lm import PackedCausalLM

Ids = NDArray[np.int32]


class NetworkLogits:
    """Row by row through a network of plain operators or kernels; rows are padded at the right, so that few graphs are compiled.

    Args:
        network: whole.
        length: positions rows are padded to; longer ones are taken as they are.
    """

    def __init__(self, network: LlamaNetwork, length: int) -> None:
        network.set_train(False)
        self.network, self.length = network, length

    def __call__(self, rows: Sequence[Ids]) -> Iterator[tuple[int, int, Floats]]:
        """(row, 0, float32 `(S, V)`) of each row."""
        pad = self.network.config.pad_token_id
        for number, row in enumerate(rows):
            check_token_ids(row, self.network.config.vocab_size, where=f"row {number}")
            padded = np.full((1, max(self.length, len(row))), pad, np.int32)
            padded[0, : len(row)] = row
            logits = self.network(ms.Tensor(padded)).asnumpy()
            yield number, 0, logits[0, : len(row)]


class PackedLogits:
    """All rows at once through the network kernel.

    Args:
        decoder: over packed weights or a network.
    """

    def __init__(self, decoder: FusedDecoder) -> None:
        self.decoder = decoder

    def __call__(self, rows: Sequence[Ids]) -> Iterator[tuple[int, int, Floats]]:
        """(row, first position, float32 `(C, V)`) of every chunk."""
        lengths_B = np.array([len(row) for row in rows], np.int32)
        tokens_BS = np.zeros((len(rows), int(lengths_B.max())), np.int32)
        for number, row in enumerate(rows):
            check_token_ids(row, self.decoder.vocab_size, where=f"row {number}")
            tokens_BS[number, : len(row)] = row
        return self.decoder.all_logits(tokens_BS, lengths_B)


def row_logits(model: CausalLM, length: int) -> RowLogits:
    """The logits of a model, packed or not."""
    if isinstance(model, PackedCausalLM):
        return PackedLogits(model.fused())
    assert isinstance(model, LlamaNetwork), type(model)
    return NetworkLogits(model, length)


def scoring_logits(model: CausalLM, length: int) -> RowLogits:
    """The logits of a model by the way it generates: the network kernel where that is used, else its network."""
    decoder = model.decoder(use_past=True)
    return PackedLogits(decoder) if isinstance(decoder, FusedDecoder) else row_logits(model, length)
