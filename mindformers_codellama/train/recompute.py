"""Which Cells compute again in the backward pass instead of keeping what is inside of them.

Measured with MindSpore 2.10 on the CPU: a recomputed Cell that communicates over the model axis makes graph mode fail
("Graph cycle exists"). So with `model_parallel` above 1 only Cells without communication are recomputed: the norms, and
the projections that make heads and hidden channels. That is MindFormers' `mp_comm_recompute: False`.
"""

from __future__ import annotations

import logging

from mindformers_codellama.config.sections import RecomputeConfigSection
from mindformers_codellama.model.llama import LlamaNetwork

logger = logging.getLogger(__name__)

WITHOUT_COMMUNICATION = ("attention_norm", "ffn_norm", "attention.wq", "attention.wk", "attention.wv", "feed_forward.w1", "feed_forward.w3")
"""Cells of a block that work on what this rank has."""


def recompute(network: LlamaNetwork, section: RecomputeConfigSection) -> None:
    """Recompute every block of this rank, or what of it does not communicate. Call once, before compiling.

    With the C++ kernels nothing is recomputed beyond what they make again anyway (norms and gates, `model.kernel_block`).
    """
    if network.uses_kernels:
        told = "has no effect with the kernels, which keep a fraction of what plain operators keep; kernels: off computes blocks again."
        logger.warning("recompute_config.recompute: %s", told)
        return
    if network.part.degree == 1:
        network.recompute_blocks()
        return
    if section.mp_comm_recompute or section.recompute_slice_activation:
        told = "with model_parallel above 1 only what does not communicate is computed again; mp_comm_recompute and"
        logger.warning("recompute_config.recompute: %s recompute_slice_activation have no effect (docs/parallel.md).", told)
    cells = dict(network.cells_and_names())
    for layer in network.part.own_layers(network.config):
        for name in WITHOUT_COMMUNICATION:
            cells[f"model.layers.{layer}.{name}"].recompute()
