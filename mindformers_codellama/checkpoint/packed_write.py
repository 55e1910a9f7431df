"""Floating-point tensors to packed ones, a few rows at a time: into memory or into a file, the same bytes either way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np

from mindformers_codellama.checkpoint.boxes_io import in_pieces, read_box
from mindformers_codellama.checkpoint.dtypes import cast, numpy_dtype
from mindformers_codellama.checkpoint.packed_file import ALIGNMENT, Slot
from mindformers_codellama.checkpoint.packed_layout import EMBEDDING, TILE, Part, bias_names, norm_names, parts
from mindformers_codellama.checkpoint.tensors import LazyTensor
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.kernels.choose import asked_for
from mindformers_codellama.kernels.library import load_library
from mindformers_codellama.kernels.packed import pack_weights_fast as pack_by_kernels
from mindformers_codellama.layout.boxes import Box
from mindformers_codellama.quantization.quantize import PackedMatrix, WeightError, as_float32, not_finite, unpack_weights, weight_error
from mindformers_codellama.quantization.quantize import pack_weights as pack_by_numpy

BLOCK_BYTES = 16 << 20
"""Float32 bytes packed at a time; a block has at least 16 rows."""


class Destination(Protocol):
    """Where packed bytes go."""

    def put(self, name: str, start: int, values: np.ndarray) -> None:
        """Write the bytes of a contiguous array at byte `start` of array `name`."""


class InMemory:
    """Arrays in memory, each at a multiple of 64 bytes, zero where nothing was written.

    Args:
        slots: name to size.
    """

    def __init__(self, slots: Mapping[str, Slot]) -> None:
        self.arrays = {name: _aligned(slot) for name, slot in slots.items()}

    def put(self, name: str, start: int, values: np.ndarray) -> None:
        """As `Destination`."""
        raw = values.reshape(-1).view(np.uint8)
        self.arrays[name].reshape(-1).view(np.uint8)[start : start + raw.size] = raw


Packer = Callable[..., PackedMatrix]
"""`quantization.quantize.pack_weights`, or the same by the kernels."""


def pack_weights(
    weights: Mapping[str, LazyTensor],
    config: ModelConfig,
    form: str,
    group: int,
    out: Destination,
    *,
    measure: bool = True,
    on_bytes: Callable[[int], object] | None = None,
) -> dict[str, WeightError]:
    """Pack every weight of a model.

    Args:
        weights: complete, by MindFormers' names, all float32 (`convert.cast_weights`).
        config: of the model.
        form: `bfloat16`, `int8` or `int4`.
        group: columns that share a scale; 0 for bfloat16.
        out: takes the arrays that `packed_layout.slots` names.
        measure: compare what was packed with the original.
        on_bytes: called with the float32 bytes just read.

    Returns:
        Name to error of every tensor that is not kept in float32; empty without `measure`.

    Raises:
        CheckpointError: a value that is not finite; a file that cannot be read; a full disk.
    """
    work = _Work(form, group, out, on_bytes or (lambda count: None), measure, fastest_packer())
    work.embedding(weights[EMBEDDING])
    for row, name in enumerate(norm_names(config)):
        work.copy(weights[name], "norms", row * config.hidden_size, name)
    if config.qkv_has_bias:
        place = 0
        for layer in range(config.num_layers):
            for name in bias_names(layer):
                place += work.copy(weights[name], "qkv_bias", place, name)
    for part in parts(config, form, group):
        work.matrix(weights[part.name], part)
    return work.errors


def fastest_packer() -> Packer:
    """The kernels' packing when their library can be used, else numpy's; both give the same bytes."""
    try:
        if asked_for("auto")[1] != "off":
            load_library()
            return pack_by_kernels
    except EnvironmentFault:
        pass  # told when the weights are used
    return pack_by_numpy


class _Work:
    """One model being packed."""

    def __init__(  # noqa: PLR0913 - what every tensor needs
        self, form: str, group: int, out: Destination, told: Callable[[int], object], measure: bool, packer: Packer
    ) -> None:
        self.form, self.group, self.out, self.told, self.measure, self.packer = form, group, out, told, measure, packer
        self.errors: dict[str, WeightError] = {}

    def matrix(self, tensor: LazyTensor, part: Part) -> None:
        """Pack one part of a matrix to its place."""
        tally = _Tally(self.group)
        for first, values in _row_blocks(tensor):
            packed = self.packer(values, self.form, self.group, where=part.name)
            tile = first // TILE
            self.out.put(part.role, part.start + tile * part.tile_bytes, packed.values)
            if packed.scales is not None:
                self.out.put(f"{part.role}_scales", part.scales_start + tile * part.tile_scale_bytes, packed.scales)
            if self.measure:
                tally.add(values, unpack_weights(packed))
            self.told(values.nbytes)
        self._measured(part.name, tally)

    def embedding(self, tensor: LazyTensor) -> None:
        """Round the embedding to bfloat16; its rows are looked up, so they stay rows."""
        tally = _Tally(0)
        for first, values in _row_blocks(tensor):
            _require_finite(values, EMBEDDING, first)
            rounded = cast(values, "bfloat16", EMBEDDING)
            self.out.put("embedding", first * values.shape[1] * rounded.itemsize, rounded)
            if self.measure:
                tally.add(values, as_float32(rounded))
            self.told(values.nbytes)
        self._measured(EMBEDDING, tally)

    def copy(self, tensor: LazyTensor, name: str, start: int, where: str) -> int:
        """Put a float32 tensor at element `start`; gives its number of elements."""
        values = tensor.read()
        _require_finite(values[None], where, 0)
        self.out.put(name, start * values.itemsize, values)
        self.told(values.nbytes)
        return int(values.size)

    def _measured(self, name: str, tally: _Tally) -> None:
        if self.measure:
            self.errors[name] = tally.error()


class _Tally:
    """Errors of the blocks of one tensor, brought together."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.worst, self.worst_of_amax, self.sum, self.squares, self.power, self.count = 0.0, 0.0, 0.0, 0.0, 0.0, 0

    def add(self, values: np.ndarray, packed: np.ndarray) -> None:
        """Take the next rows: as they were, and packed."""
        found = weight_error(values, packed, self.group)
        power = float(np.square(values, dtype=np.float64).sum())
        self.worst, self.worst_of_amax = max(self.worst, found.worst), max(self.worst_of_amax, found.worst_of_amax)
        self.sum += found.mean * values.size
        self.squares += found.relative**2 * power
        self.power += power
        self.count += values.size

    def error(self) -> WeightError:
        """The error of all rows taken so far."""
        rms = math.sqrt(self.power / max(1, self.count)) or 1.0
        relative = math.sqrt(self.squares / self.power) if self.power else 0.0
        mean = self.sum / max(1, self.count)
        return WeightError(worst=self.worst, mean=mean, worst_of_amax=self.worst_of_amax, worst_of_rms=self.worst / rms, relative=relative)


def _row_blocks(tensor: LazyTensor) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float32 rows) of a matrix, all but the last of whole tiles; one that has to be made whole is made once."""
    rows, columns = tensor.shape
    step = max(1, BLOCK_BYTES // (4 * columns * TILE)) * TILE
    whole = None if in_pieces(tensor) else tensor.read()
    for first in range(0, rows, step):
        last = min(first + step, rows)
        yield first, read_box(tensor, Box((first, 0), (last, columns))) if whole is None else whole[first:last]


def _require_finite(values: np.ndarray, where: str, first: int) -> None:
    bad = ~np.isfinite(values).all(axis=-1)
    if bad.any():
        raise not_finite(where, first + int(np.flatnonzero(bad)[0]))


def _aligned(slot: Slot) -> np.ndarray:
    raw = np.zeros(slot.nbytes + ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + slot.nbytes].view(numpy_dtype(slot.dtype)).reshape(slot.shape)
