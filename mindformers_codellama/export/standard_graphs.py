"""The graphs of standard operators that a request asks for, and what they hold."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn

from mindformers_codellama.export.graphs import GRAPHS, Caches, signature
from mindformers_codellama.export.paged_graphs import PAGED_GRAPHS, paged_signature
from mindformers_codellama.export.request import ExportRequest
from mindformers_codellama.mindir.protocol import Signature
from mindformers_codellama.model.llama import LlamaNetwork


class StandardGraphs:
    """What is exported; all graphs are over the same Parameters.

    Args:
        network: whole, or one rank's part. Its weights are used, not copied.
        request: rows, shapes and cache.
    """

    def __init__(self, network: LlamaNetwork, request: ExportRequest) -> None:
        self.config, self.group = network.config, network.part.axis.group
        """The model's, and the name of its ranks' group."""
        self._network, self._request = network, request
        self._caches = Caches(network, request.batch_size, blocks=request.blocks, block_size=request.block_size)

    def graph(self, role: str) -> tuple[Signature, nn.Cell]:
        """Signature and Cell for a role."""
        request = self._request
        shape = {"rows": request.batch_size, "positions": self.config.seq_length, "vocab_size": self.config.vocab_size}
        if request.blocks:
            return paged_signature(role, block_size=request.block_size, **shape), PAGED_GRAPHS[role](self._network, self._caches)
        return signature(role, dynamic=request.dynamic, **shape), GRAPHS[role, request.dynamic](self._network, self._caches)

    def parameters(self) -> dict[str, ms.Parameter]:
        """Everything the graphs hold, by name."""
        return {one.name: one for one in (*self._caches.keys, *self._caches.values)} | dict(self._network.parameters_and_names())
