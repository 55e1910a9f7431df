"""Which part of a network one rank holds: some layers, and of every cut tensor its slice along the model axis."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.model.kernels import stream_dtype, uses_kernels
from mindformers_codellama.parallel.comm import ALONE, Axis, Comm
from mindformers_codellama.runtime.dtypes import mindspore_dtype

PER_POSITION = ("_norm.weight", "norm_out.weight", "wo.bias", "w2.bias")
"""Ends of the names of parameters that work on positions of the residual stream and are whole on every model rank."""


@dataclass(frozen=True, kw_only=True)
class NetworkPart:
    """One rank's part of a network."""

    layers: range | None = None
    """Global numbers of the layers of this stage; None is all."""
    first: bool = True
    """Has the embedding."""
    last: bool = True
    """Has the final norm and the head."""
    axis: Axis = ALONE
    """The ranks that share each layer (model axis)."""
    sequence: bool = False
    """Between layers a rank holds only its positions of the residual stream (`use_seq_parallel`)."""
    cut_vocabulary: bool = False
    """Embedding and head are cut by rows along the model axis."""

    def __post_init__(self) -> None:
        assert self.axis.size > 1 or not (self.sequence or self.cut_vocabulary), self

    @property
    def degree(self) -> int:
        """Ranks that share each layer."""
        return self.axis.size

    def share(self, size: int) -> int:
        """What one rank has of `size` heads, channels, rows or positions; the degree must divide it."""
        assert size % self.axis.size == 0, (size, self.axis)
        return size // self.axis.size

    def own_layers(self, config: ModelConfig) -> range:
        """Global numbers of the layers held here."""
        return range(config.num_layers) if self.layers is None else self.layers


WHOLE = NetworkPart()
"""All of a network, on one rank."""


def network_part(model_layout: ModelLayout, comm: Comm, *, sequence: bool) -> NetworkPart:
    """The part of this rank.

    Args:
        model_layout: where every tensor lies.
        comm: this process among the ranks of the same layout.
        sequence: `use_seq_parallel`; without meaning when one rank has each layer.
    """
    assert model_layout.layout == comm.layout, (model_layout.layout, comm.layout)
    stage, stages = comm.stage.index, comm.layout.pipeline_stage
    return NetworkPart(
        layers=model_layout.layers[stage] if stages > 1 else None,
        first=stage == 0,
        last=stage == stages - 1,
        axis=comm.model,
        sequence=sequence and comm.model.size > 1,
        cut_vocabulary=model_layout.cuts_vocabulary,
    )


def sums_gradient_over_model(name: str, part: NetworkPart) -> bool:
    """Whether each rank has only a part of a parameter's gradient, so that a step must add it over the model axis.

    So it is with what works on single positions while positions are cut: norms, and biases of row-parallel layers.
    Everything else is whole: a cut tensor has its own gradient, and the regions add what enters a whole one.
    """
    return part.sequence and name.endswith(PER_POSITION)


def stage_tensor(config: ModelConfig, part: NetworkPart, batch: int, length: int) -> tuple[tuple[int, int, int], ms.Type]:
    """Shape and type of what a stage hands to the next: `(B, S, D)`, or `(B, S / degree, D)` when positions are cut.

    Args:
        config: the model.
        part: of the sender or the receiver; the same either way.
        batch: B, rows of a micro batch.
        length: S, tokens per row as `run_stage` gets them.
    """
    positions = part.share(length) if part.sequence else length
    return (batch, positions, config.hidden_size), stream_dtype(config)


def normed_dtype(config: ModelConfig, part: NetworkPart) -> ms.Type:
    """Type of the hidden states the head takes: the compute type, but float32 where kernels and ranks meet: that travels."""
    return ms.float32 if uses_kernels(config) and part.degree > 1 else mindspore_dtype(config.compute_dtype)
