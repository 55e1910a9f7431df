"""Packed weights as float32 tensors again, for machines without the kernels: the values the kernels would multiply with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from mindformers_codellama.checkpoint.convert import cast_weights, model_weights
from mindformers_codellama.checkpoint.open import CheckpointReader
from mindformers_codellama.checkpoint.packed_layout import EMBEDDING, Part, bias_names, norm_names, parts, tiles_of
from mindformers_codellama.checkpoint.packed_open import PackedCheckpoint
from mindformers_codellama.checkpoint.tensors import ComputedTensor, LazyTensor
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.quantization.quantize import PackedMatrix, as_float32, pack_weights, unpack_weights


def packed_reader(packed: PackedCheckpoint) -> CheckpointReader:
    """A packed directory as a checkpoint of float32 tensors, each made when it is read."""
    config, arrays = packed.manifest.model, packed.arrays
    kind = (packed.manifest.form, packed.manifest.group)
    tensors: dict[str, LazyTensor] = {EMBEDDING: _computed(arrays["embedding"].shape, lambda: as_float32(arrays["embedding"]))}
    for row, name in enumerate(norm_names(config)):
        tensors[name] = _computed((config.hidden_size,), partial(np.array, arrays["norms"][row]))
    if config.qkv_has_bias:
        tensors |= _biases(config, arrays["qkv_bias"])
    for part in parts(config, *kind):
        tensors[part.name] = _computed((part.rows, part.columns), partial(_unpacked, arrays, part, kind))
    about = {"format": "codellama-packed", "files": [file.name for file in packed.manifest.files]}
    return CheckpointReader(packed.path, tensors, about, config)


def rounded_reader(reader: CheckpointReader, config: ModelConfig, form: str, group: int) -> CheckpointReader:
    """A floating-point checkpoint with the values its matrices would have after packing.

    Raises:
        CheckpointError: it is no complete checkpoint of this model; when a tensor is read: a value that is not finite.
    """
    floats = cast_weights(reader.path, model_weights(reader, config)[0], "float32")
    tensors = dict(floats)
    for part in parts(config, form, group):
        tensors[part.name] = _computed((part.rows, part.columns), partial(_rounded, floats[part.name], form, group, part.name))
    tensors[EMBEDDING] = _computed(floats[EMBEDDING].shape, partial(_rounded, floats[EMBEDDING], "bfloat16", 0, EMBEDDING))
    return replace(reader, tensors=tensors)


def _computed(shape: tuple[int, ...], make: Callable[[], np.ndarray]) -> ComputedTensor:
    return ComputedTensor(tuple(shape), "float32", make)


def _rounded(tensor: LazyTensor, form: str, group: int, name: str) -> np.ndarray:
    return unpack_weights(pack_weights(tensor.read(), form, group, where=name))


def _unpacked(arrays: Mapping[str, np.ndarray], part: Part, kind: tuple[str, int]) -> np.ndarray:
    form, group = kind
    tiles = tiles_of(part.rows)

    def mine(name: str, start: int, tile_bytes: int) -> np.ndarray:
        array = arrays[name]
        if part.role != "head":
            array = array.reshape(-1, *array.shape[2:])
        first = start // tile_bytes
        return array[first : first + tiles]

    values = mine(part.role, part.start, part.tile_bytes)
    scales = mine(f"{part.role}_scales", part.scales_start, part.tile_scale_bytes) if part.tile_scale_bytes else None
    return unpack_weights(PackedMatrix(form=form, group=group, rows=part.rows, columns=part.columns, values=values, scales=scales))


def _biases(config: ModelConfig, biases: np.ndarray) -> dict[str, LazyTensor]:
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    bounds = (0, width, width + kv_width, width + 2 * kv_width)
    return {
        name: _computed((stop - start,), partial(np.array, biases[layer, start:stop]))
        for layer in range(config.num_layers)
        for name, start, stop in zip(bias_names(layer), bounds[:-1], bounds[1:], strict=True)
    }
