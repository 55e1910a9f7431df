"""A model whose weights are packed: it generates and gives logits, and holds no float32 network."""

from __future__ import annotations

import logging

from mindformers_codellama.backends.fused_decoder import FusedDecoder
from mindformers_codellama.checkpoint.packed_model import PackedModel
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.kernels.choose import kernels_in_use
from mindformers_codellama.pipelines.adapters import PackedAdapters
from mindformers_codellama.pipelines.generating import CausalLM, plain_generation
from mindformers_codellama.pipelines.ranks import ONE

logger = logging.getLogger(__name__)


class PackedCausalLM(CausalLM):
    """Generates from packed weights with the network kernel, on one CPU process.

    Args:
        weights: made at load or mapped from a file; they stay where they are.
        generation: options `generate` starts from; None is greedy.
        adapter: name of the low-rank adapter that was merged before they were packed.

    Raises:
        EnvironmentFault: the kernel library cannot be used.
    """

    def __init__(self, weights: PackedModel, *, generation: GenerationConfig | None = None, adapter: str | None = None) -> None:
        self.weights = weights
        self.config = weights.config
        self.generation = generation or plain_generation(weights.config)
        self.ranks = ONE
        self._adapters = PackedAdapters(weights.form, adapter)
        self._decoder: FusedDecoder | None = None

    def decoder(self, *, use_past: bool) -> Decoder:
        """The decoder; it always keeps keys and values, which gives the same answers in less time."""
        return self.fused()

    def _own_adapters(self) -> PackedAdapters:
        return self._adapters

    def fused(self) -> FusedDecoder:
        """The decoder with its own methods."""
        if self._decoder is None:
            logger.info("decoding with the network kernel, level %s, weights %s", kernels_in_use(), self.weights.form)
            self._decoder = FusedDecoder(self.weights)
        return self._decoder
