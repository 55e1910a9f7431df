"""Weights and caches of loaded graphs: shared between the graphs of a rank, and emptied."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn

CACHE_PREFIXES = ("key_past.", "value_past.")
"""How the names of caches begin."""


def share(source: nn.GraphCell, target: nn.GraphCell) -> None:
    """Let one graph use the memory of another's parameters of the same names, caches included; its own is given back.

    What one graph then writes into its cache, the other reads: nothing is copied between a prompt and the first step.
    """
    own = dict(source.parameters_and_names())
    for name, parameter in target.parameters_and_names():
        parameter.set_data(own[name])


def empty_caches(graph: nn.GraphCell) -> None:
    """Zeros in every cache of a graph; what shared them must `share` again."""
    for name, parameter in graph.parameters_and_names():
        if name.startswith(CACHE_PREFIXES):
            parameter.set_data(ms.Tensor(np.zeros(parameter.shape, np.float32)).astype(parameter.dtype))
