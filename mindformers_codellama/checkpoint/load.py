"""Put a checkpoint of any form into a network, one tensor in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
from mindspore import nn

from mindformers_codellama.checkpoint.boxes_io import part_of
from mindformers_codellama.checkpoint.dtypes import MINDSPORE, WEIGHT_DTYPES
from mindformers_codellama.checkpoint.latest import get_last_checkpoint
from mindformers_codellama.checkpoint.open import CheckpointReader
from mindformers_codellama.checkpoint.report import Difference, LoadReport, compare, difference_errors
from mindformers_codellama.checkpoint.source import Source, open_source
from mindformers_codellama.checkpoint.tensors import CastTensor, LazyTensor
from mindformers_codellama.checkpoint.weight_map import is_adapter, is_dropped, is_training_state
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError, raise_all
from mindformers_codellama.layout.boxes import Box
from mindformers_codellama.layout.cuts import ModelLayout

__all__ = ["get_last_checkpoint", "load_into"]

log = logging.getLogger(__name__)

HEADS = ("num_heads", "num_kv_heads")
TOLD = ("rope_theta", "extend_method", "scaling_factor", "rms_norm_eps")


def load_into(
    network: nn.Cell, path: str | Path, *, strict: bool = True, model_layout: ModelLayout | None = None, rank: int = 0, strategy: str = ""
) -> LoadReport:
    """Fill the parameters of `network` from a checkpoint; values are cast to the parameters' types.

    Call it before the network is compiled. Nothing is changed when the checkpoint is refused.

    Args:
        network: parameters have MindFormers' names; KV caches are left alone.
        path: anything `open_checkpoint` takes, a Hugging Face directory included.
        strict: refuse missing and unexpected tensors too; when False they are only reported.
        model_layout: where every tensor lies; the network has the parts of one rank, and only those are read.
            None when the network is whole.
        rank: whose parts, in [0, ranks of the layout).
        strategy: strategy file or folder of a checkpoint in `rank_N` folders whose shards do not describe themselves.

    Returns:
        What was loaded, left out and different.

    Raises:
        CheckpointError: mis-shaped tensors, tensors that are not floating point, and with `strict` missing and
            unexpected ones, all at once; a checkpoint that says it has other heads; or the file cannot be read.
    """
    needed = weight_shapes(network)
    source = open_source(path, needed, model_layout=model_layout, rank=rank, strategy=strategy)
    return load_from(network, source, strict=strict, model_layout=model_layout, rank=rank)


def load_from(
    network: nn.Cell, source: Source, *, strict: bool = True, model_layout: ModelLayout | None = None, rank: int = 0
) -> LoadReport:
    """The same from an opened checkpoint; arguments and errors as `load_into`."""
    reader = source.reader
    difference = check_tensors(source, weight_shapes(network), strict=strict, model_layout=model_layout)
    compare_configs(reader, getattr(network, "config", None))
    names = set(reader.names())
    cast_from: set[str] = set()
    loaded = 0
    for name, parameter in _weights(network).items():
        if name not in names:
            continue
        tensor = reader.tensor(name)
        if model_layout is not None and not source.own:
            tensor = part_of(tensor, rank_box(model_layout, name, rank))
        cast_from |= {_assign(parameter, tensor, f"{reader.path}: {name}")} - {MINDSPORE[str(parameter.dtype)]}
        loaded += 1
    log.info("loaded %d tensors from %s", loaded, reader.path)
    ignored = [name for name in reader.names() if is_training_state(name)]
    return LoadReport(str(reader.path), loaded, (*ignored, *reader.dropped), difference, tuple(sorted(cast_from)))


def check_tensors(
    source: Source, own: Mapping[str, tuple[int, ...]], *, strict: bool = True, model_layout: ModelLayout | None = None
) -> Difference:
    """What a checkpoint and a network differ in.

    Of a whole checkpoint the whole model is compared, so that every rank finds the same.

    Args:
        source: the checkpoint.
        own: shapes of the network's weights.
        strict: refuse missing and unexpected tensors too.
        model_layout: where every tensor lies, when the network is one rank's.

    Raises:
        CheckpointError: as `load_into`.
    """
    reader = source.reader
    found = {name: shape for name, shape in reader.shapes().items() if name in own or not is_training_state(name)}
    needed = own if model_layout is None or source.own else model_layout.shapes
    difference = compare(found, needed)
    problems = difference_errors(reader.path, difference, found, needed)
    if problems and (strict or difference.misshaped or not set(found) & set(needed)):
        raise_all(problems)
    wrong = [name for name in found if name in needed and reader.dtype(name) not in (*WEIGHT_DTYPES, "float64")]
    fix = "use the checkpoint before quantisation."
    raise_all(CheckpointError(f"{reader.path}: {name}", f"is {reader.dtype(name)}, not a floating type.", fix=fix) for name in wrong)
    return difference


def weight_shapes(network: nn.Cell) -> dict[str, tuple[int, ...]]:
    """Name to shape of a network's weights, KV caches and adapters left out."""
    return {name: tuple(parameter.shape) for name, parameter in _weights(network).items()}


def rank_box(model_layout: ModelLayout, name: str, rank: int) -> Box:
    """What `rank` holds of a tensor of its own stage."""
    box = model_layout.box(name, rank)
    assert box is not None, (name, rank, str(model_layout.layout))
    return box


def _weights(network: nn.Cell) -> dict[str, ms.Parameter]:
    return {
        name: parameter for name, parameter in network.parameters_and_names() if not is_dropped(name) and not is_adapter(parameter.name)
    }


def compare_configs(reader: CheckpointReader, config: object) -> None:
    """What shapes do not show: other heads are refused, other rotary settings and eps told, for they may be meant.

    Raises:
        CheckpointError: the numbers of heads differ.
    """
    there = reader.config
    if there is None or not isinstance(config, ModelConfig):
        return
    wrong = [
        f"{key} {getattr(there, key)}, the model {getattr(config, key)}" for key in HEADS if getattr(there, key) != getattr(config, key)
    ]
    fix = "write model.model_config.num_heads and n_kv_heads as the checkpoint has them."
    raise_all(CheckpointError(reader.path, f"has {text}: weights of the same shapes, but another model.", fix=fix) for text in wrong)
    for key in TOLD:
        if getattr(there, key) != getattr(config, key):
            log.warning(
                "%s was trained with %s %s, the model computes with %s.", reader.path, key, getattr(there, key), getattr(config, key)
            )


def _assign(parameter: ms.Parameter, tensor: LazyTensor, where: str) -> str:
    """Read one tensor in the parameter's type and give it to the parameter; returns the type on disk."""
    wanted = MINDSPORE[str(parameter.dtype)]
    values = tensor.read() if wanted == tensor.dtype else CastTensor(tensor, wanted, where).read()
    parameter.set_data(ms.Tensor(values))
    return tensor.dtype
