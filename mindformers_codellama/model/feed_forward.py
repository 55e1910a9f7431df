"""Gated feed-forward, SwiGLU (arXiv 2002.05202)."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.model.linear import Linear
from mindformers_codellama.runtime.dtypes import mindspore_dtype


class FeedForward(nn.Cell):
    """`w2(silu(w1 x) * w3 x)`; `(B, S, D)` to the same shape in the compute type."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        def linear(in_size: int, out_size: int) -> Linear:
            return Linear(
                in_size,
                out_size,
                compute_dtype=mindspore_dtype(config.compute_dtype),
                param_dtype=mindspore_dtype(config.param_init_dtype),
            )

        self.w1 = linear(config.hidden_size, config.intermediate_size)
        self.w2 = linear(config.intermediate_size, config.hidden_size)
        self.w3 = linear(config.hidden_size, config.intermediate_size)

    def construct(self, x_BSD: ms.Tensor) -> ms.Tensor:
        """One token at a time: no mixing over S."""
        return self.w2(ops.silu(self.w1(x_BSD)) * self.w3(x_BSD))
