"""Which arrays a packed model has, their sizes, and where each part of a matrix lies in them.

A matrix is packed by `quantization.packing` in tiles of 16 rows; tiles of one part of a fused matrix follow each other, then
those of the next part, then the next layer. So any 16 rows of any tensor of the source have one place, known before anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mindformers_codellama.checkpoint.dtypes import numpy_dtype
from mindformers_codellama.checkpoint.packed_file import Slot
from mindformers_codellama.checkpoint.packed_model import ROLES, SCALED_FORMS, PackedModel, part_names, role_columns, role_parts
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.quantization.packing import TILE, packed_shape, scales_shape

EMBEDDING = "model.tok_embeddings.embedding_weight"
STORED = {"bfloat16": "bfloat16", "int8": "uint8", "int4": "uint8"}
"""Form of weights to the element type of its arrays in a file."""


@dataclass(frozen=True)
class Part:
    """One tensor of the source and its place in a stacked matrix."""

    name: str
    """MindFormers' name."""
    role: str
    rows: int
    columns: int
    start: int
    """First byte in the array `role`."""
    scales_start: int
    """First byte in the array `role_scales`."""
    tile_bytes: int
    """Bytes of 16 rows in the array `role`."""
    tile_scale_bytes: int
    """The same in `role_scales`; 0 without scales."""


def has_scales(form: str) -> bool:
    """Whether matrices of a form come with scales."""
    return form in SCALED_FORMS


def slots(config: ModelConfig, form: str, group: int) -> dict[str, Slot]:
    """Every array of a packed model in the order of the file, as `PackedModel` names them."""
    layers, width = config.num_layers, (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    found = {
        "embedding": Slot("bfloat16", (config.vocab_size, config.hidden_size)),
        "norms": Slot("float32", (2 * layers + 1, config.hidden_size)),
    }
    if config.qkv_has_bias:
        found["qkv_bias"] = Slot("float32", (layers, width))
    for role in ROLES:
        stack = () if role == "head" else (layers,)
        tiles, columns = sum(map(tiles_of, role_parts(config, role))), role_columns(config, role)
        found[role] = Slot(STORED[form], (*stack, *packed_shape(tiles * TILE, columns, form, group)))
        if has_scales(form):
            found[f"{role}_scales"] = Slot("bfloat16", (*stack, *scales_shape(tiles * TILE, columns, group)))
    return found


def tiles_of(rows: int) -> int:
    """Tiles that hold this many rows."""
    return -(-rows // TILE)


def parts(config: ModelConfig, form: str, group: int) -> Iterator[Part]:
    """Every matrix of the source with its place, layer by layer, the head last."""
    for layer in range(config.num_layers):
        for role in ROLES[:-1]:
            yield from _role_parts(config, role, layer, (form, group))
    yield from _role_parts(config, "head", 0, (form, group))


def _role_parts(config: ModelConfig, role: str, layer: int, kind: tuple[str, int]) -> Iterator[Part]:
    form, group = kind
    columns, rows_of = role_columns(config, role), role_parts(config, role)
    tile_bytes = math.prod(packed_shape(TILE, columns, form, group)) * numpy_dtype(STORED[form]).itemsize
    scale_bytes = math.prod(scales_shape(TILE, columns, group)) * 2 if has_scales(form) else 0
    first = layer * sum(map(tiles_of, rows_of))
    for name, rows in zip(part_names(layer, role), rows_of, strict=True):
        yield Part(name, role, rows, columns, first * tile_bytes, first * scale_bytes, tile_bytes, scale_bytes)
        first += tiles_of(rows)


def norm_names(config: ModelConfig) -> list[str]:
    """MindFormers' names of the rows of `norms`, in order."""
    layers = [f"model.layers.{layer}.{kind}.weight" for layer in range(config.num_layers) for kind in ("attention_norm", "ffn_norm")]
    return [*layers, "model.norm_out.weight"]


def bias_names(layer: int) -> tuple[str, ...]:
    """MindFormers' names of the parts of a row of `qkv_bias`."""
    return tuple(f"model.layers.{layer}.attention.{name}.bias" for name in ("wq", "wk", "wv"))


def packed_model(config: ModelConfig, form: str, group: int, arrays: Mapping[str, np.ndarray]) -> PackedModel:
    """The model over arrays made or mapped as `slots` says; bfloat16 becomes its bits, nothing is copied."""
    bits = {name: value.view(np.uint16) if value.dtype == numpy_dtype("bfloat16") else value for name, value in arrays.items()}
    return PackedModel(config=config, form=form, group=group, arrays=bits)
