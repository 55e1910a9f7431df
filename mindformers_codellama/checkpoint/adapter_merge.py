"""An adapter added to the weights it belongs to, one weight in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mindformers_codellama.checkpoint.adapter_format import Adapter, LowRank, require_fits
from mindformers_codellama.checkpoint.tensors import CastTensor, ComputedTensor, LazyTensor


def merged_weights(weights: Mapping[str, LazyTensor], adapter: Adapter, *, dtype: str = "keep") -> dict[str, LazyTensor]:
    """Weights with `scale B A` added in float32 and rounded once, to the weight's own type or to `dtype`.

    Args:
        weights: of a whole model, by our names.
        adapter: of the same model.
        dtype: `keep`, or what all weights are cast to afterwards; then the merged ones are float32 here.

    Raises:
        CheckpointError: an adapter of another model.
    """
    require_fits(adapter, {name: tensor.shape for name, tensor in weights.items()})
    merged = dict(weights)
    for name, pair in adapter.weights.items():
        sum_OI = _sum(weights[name], pair)
        own = weights[name].dtype if dtype == "keep" else "float32"
        merged[name] = sum_OI if own == "float32" else CastTensor(sum_OI, own, f"{adapter.path}: {name}")
    return merged


def add_low_rank(weight_OI: np.ndarray, pair: LowRank) -> np.ndarray:
    """float32 `W + scale B A`."""
    total: np.ndarray = weight_OI.astype(np.float32)
    total += pair.product()
    return total


def _sum(weight: LazyTensor, pair: LowRank) -> ComputedTensor:
    return ComputedTensor(weight.shape, "float32", lambda: add_low_rank(weight.read(), pair))
