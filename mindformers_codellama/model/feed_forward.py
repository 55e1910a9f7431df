"""Gated feed-forward, SwiGLU (arXiv 2002.05202)."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.model.edges import layer_edges
from mindformers_codellama.model.linear import Linear
from mindformers_codellama.model.part import WHOLE, NetworkPart
from mindformers_codellama.runtime.dtypes import mindspore_dtype


class FeedForward(nn.Cell):
    """`w2(silu(w1 x) * w3 x)`; `(B, S, D)` to the same shape in the compute type."""

    def __init__(self, config: ModelConfig, part: NetworkPart = WHOLE) -> None:
        super().__init__()
        inner = part.share(config.intermediate_size)
        enter, leave = layer_edges(part)
        self.enters = enter is not None
        if enter is not None:
            self.enter = enter

        def linear(in_size: int, out_size: int, leave: nn.Cell | None = None) -> Linear:
            return Linear(
                in_size,
                out_size,
                compute_dtype=mindspore_dtype(config.compute_dtype),
                param_dtype=mindspore_dtype(config.param_init_dtype),
                leave=leave,
            )

        self.w1 = linear(config.hidden_size, inner)
        self.w2 = linear(inner, config.hidden_size, leave)
        self.w3 = linear(config.hidden_size, inner)

    def construct(self, x_BSD: ms.Tensor) -> ms.Tensor:
        """One token at a time: no mixing over S."""
        if self.enters:
            x_BSD = self.enter(x_BSD)
        return self.w2(ops.silu(self.w1(x_BSD)) * self.w3(x_BSD))
