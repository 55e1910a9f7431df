"""The graphs of the CPU kernels: a whole model as one operator, which reads packed weights and writes keys and values in place.

Shapes are fixed, but padding costs nothing: the kernel reads a row's own tokens only. Such graphs run where the kernel library
of this package is, and nowhere else. Shape letters: B rows, S positions, V vocabulary, L layers, P pages of one row.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_codellama.backends.fused_network import PAGE_SIZE, packed_inputs, page_shape, pool_dtype, rotary_table
from mindformers_codellama.backends.packed_model import ROLES, PackedModel, part_names
from mindformers_codellama.checkpoint.packed_layout import EMBEDDING, bias_names, norm_names
from mindformers_codellama.export.graphs import signature
from mindformers_codellama.export.request import ExportRequest
from mindformers_codellama.kernels.mindir import ROWS, require_entries
from mindformers_codellama.kernels.operators import writing_operator
from mindformers_codellama.mindir.protocol import Signature
from mindformers_codellama.model.llama import LlamaNetwork

CONSTANTS = ("sizes", "reals")
"""Inputs of the kernel that stand in the graph itself; all others are Parameters."""


class KernelGraph(nn.Cell):
    """One operator over Parameters: `csrc/op_rows.cpp`.

    Args:
        constants: of `CONSTANTS`.
        pools: keys and values, `(B P, L, ...)`.
        weights: every other input, in order.
        shape: of the logits, (B, V).
    """

    def __init__(
        self, constants: list[np.ndarray], pools: ms.ParameterTuple, weights: ms.ParameterTuple, *, shape: tuple[int, int]
    ) -> None:
        super().__init__(auto_prefix=False)
        self.pools, self.weights = pools, weights
        self.sizes, self.reals = (ms.Tensor(each) for each in constants)
        read = 2 + len(constants) + len(weights)
        self.rows = writing_operator(ROWS, lambda *_: shape, lambda *_: ms.float32, written=2, read=read)

    def construct(self, input_ids: ms.Tensor, batch_valid_length: ms.Tensor, batch_index: ms.Tensor, zactivate_len: ms.Tensor) -> ms.Tensor:
        """Logits after each row's last token; shapes and types in `graphs.signature`. The last two inputs are not looked at."""
        return self.rows(self.pools[0], self.pools[1], input_ids, batch_valid_length, self.sizes, self.reals, *self.weights)


class KernelGraphs:
    """What is exported, as `graphs.StandardGraphs`; both graphs are over the same Parameters.

    Args:
        model: packed weights, or float32 ones in their layout (`stacked`).
        request: what is asked for.

    Raises:
        EnvironmentFault: the kernel library cannot be used.
    """

    group = ""
    """Kernels know no other ranks."""

    def __init__(self, model: PackedModel, request: ExportRequest) -> None:
        require_entries((ROWS,), where="--operators")
        self.config = model.config
        inputs = packed_inputs(model, rotary_table(model.config))
        self._constants = [inputs.pop(name) for name in CONSTANTS]
        self._weights = ms.ParameterTuple([_parameter(name, value) for name, value in inputs.items()])
        self._rows = request.batch_size
        pool = (self._rows * -(-model.config.seq_length // PAGE_SIZE), *page_shape(model.config))
        # names begin as those of other caches do: export writes zeros for them, and engines empty them
        self._pools = ms.ParameterTuple([_parameter(name, np.zeros(pool, pool_dtype(model.form))) for name in ("key_past.", "value_past.")])

    def graph(self, role: str) -> tuple[Signature, nn.Cell]:
        """Signature and Cell for a role, `full` or `inc`."""
        config = self.config
        spec = signature(role, rows=self._rows, positions=config.seq_length, vocab_size=config.vocab_size, dynamic=False)
        return spec, KernelGraph(self._constants, self._pools, self._weights, shape=(self._rows, config.vocab_size))

    def parameters(self) -> dict[str, ms.Parameter]:
        """Everything the graphs hold, by name."""
        return {one.name: one for one in (*self._pools, *self._weights)}


def _parameter(name: str, value: np.ndarray) -> ms.Parameter:
    return ms.Parameter(ms.Tensor(np.ascontiguousarray(value)), name=name, requires_grad=False)


def stacked(network: LlamaNetwork) -> PackedModel:
    """The weights of a whole float32 network, copied, as `PackedModel` holds the form float32."""
    config, tensors = network.config, {name: one.asnumpy() for name, one in network.parameters_and_names()}

    def matrix(role: str, layer: int) -> np.ndarray:
        return np.concatenate([tensors[name] for name in part_names(layer, role)])

    layers = range(config.num_layers)
    arrays = {role: np.stack([matrix(role, layer) for layer in layers]) for role in ROLES if role != "head"}
    arrays |= {
        "head": matrix("head", 0),
        "embedding": tensors[EMBEDDING],
        "norms": np.stack([tensors[name] for name in norm_names(config)]),
    }
    if config.qkv_has_bias:
        arrays["qkv_bias"] = np.stack([np.concatenate([tensors[name] for name in bias_names(layer)]) for layer in layers])
    return PackedModel(config=config, form="float32", group=0, arrays=arrays)
