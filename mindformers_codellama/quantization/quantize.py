"""Weights of a floating-point matrix in a smaller form, and how far that is from the original.

Symmetric and group-wise: the columns of a group of one row share a scale. `scale = amax / limit` is rounded up to bfloat16 first
and the weights are rounded against that scale, so no weight is cut off and each is within half a scale of its original.
`kernels.packed` does the same with all cores and gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.quantization import packing
from mindformers_codellama.quantization.formats import BFLOAT16, LIMITS, check_form, padded_columns

CHUNK = 1 << 20
"""Weights looked at together, so that temporaries stay in the cache."""


@dataclass(frozen=True, kw_only=True)
class PackedMatrix:
    """One matrix in a form, as the kernels read it."""

    form: str
    group: int
    """Columns that share a scale; 0 for forms without."""
    rows: int
    columns: int
    values: np.ndarray
    """As `packing.packed_shape` says."""
    scales: np.ndarray | None
    """Bfloat16, as `packing.scales_shape` says; None for forms without."""


@dataclass(frozen=True, kw_only=True)
class WeightError:
    """Distance of restored weights from their originals."""

    worst: float
    """Largest absolute difference."""
    mean: float
    """Mean absolute difference."""
    worst_of_amax: float
    """Largest difference over the largest absolute weight of its group."""
    worst_of_rms: float
    """`worst` over the root mean square of the matrix."""
    relative: float
    """Root mean square of the differences over that of the matrix."""


def quantize(weights_RC: np.ndarray, form: str, group: int, *, where: str = "weights") -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales of a matrix.

    Args:
        weights_RC: float32, bfloat16 or float16, finite.
        form: `int8` or `int4`.
        group: columns that share a scale; the last group may be shorter.
        where: the tensor's name, for the error.

    Returns:
        int8 `(R, C')` with C' a multiple of the group, zero in the padding, and bfloat16 scales `(R, C' / group)`;
        a group of zeros has the scale 0.

    Raises:
        CheckpointError: a weight is NaN or infinite.
        ConfigError: a form or group that is not known.
    """
    check_form(form, group)
    rows, columns = weights_RC.shape
    width, limit = padded_columns(columns, form, group), np.float32(LIMITS[form])
    values, scales = np.zeros((rows, width), np.int8), np.zeros((rows, width // group), BFLOAT16)
    step = max(1, CHUNK // max(1, width))
    for first in range(0, rows, step):
        part = np.zeros((min(step, rows - first), width), np.float32)
        part[:, :columns] = as_float32(weights_RC[first : first + step])
        groups = part.reshape(len(part), width // group, group)
        amax = np.abs(groups).max(-1)
        if not np.isfinite(amax).all():
            raise not_finite(where, first + int(np.flatnonzero(~np.isfinite(amax).all(-1))[0]))
        scale = round_up_to_bfloat16(amax / limit)
        divisor = as_float32(scale)[..., None]
        divisor = np.where(divisor == 0, np.float32(1), divisor)
        # Dividing, not multiplying by an inverse: the C++ code gives the same bytes because both are single IEEE operations.
        whole = np.clip(np.rint(groups / divisor), -limit, limit)
        values[first : first + step] = whole.reshape(len(part), width).astype(np.int8)
        scales[first : first + step] = scale
    return values, scales


def dequantize(values_RC: np.ndarray, scales_RG: np.ndarray, columns: int) -> np.ndarray:
    """Float32 `(R, columns)` of what `quantize` gave: integer times scale."""
    rows, groups = scales_RG.shape
    group = values_RC.shape[1] // max(1, groups)
    restored = values_RC.reshape(rows, groups, group).astype(np.float32) * scales_RG.astype(np.float32)[..., None]
    return restored.reshape(values_RC.shape)[:, :columns]


def pack_weights(weights_RC: np.ndarray, form: str, group: int, *, where: str = "weights") -> PackedMatrix:
    """A matrix in a form.

    Args:
        weights_RC: float32, bfloat16 or float16, finite.
        form: one of `FORMS`.
        group: columns that share a scale; 0 for forms without.
        where: the tensor's name, for the error.

    Raises:
        CheckpointError: a weight is NaN or infinite, or too large for bfloat16.
        ConfigError: a form or group that is not known.
    """
    check_form(form, group)
    rows, columns = weights_RC.shape
    scales = None
    if form in LIMITS:
        integers, row_scales = quantize(weights_RC, form, group, where=where)
        values = packing.pack_int8(integers) if form == "int8" else packing.pack_int4(integers)
        scales = packing.pack_scales(row_scales)
    elif form == "bfloat16":
        values = packing.pack_bfloat16(_rounded(weights_RC, where))
    else:
        values = np.ascontiguousarray(as_float32(weights_RC))
        _check_finite(values, where)
    return PackedMatrix(form=form, group=group, rows=rows, columns=columns, values=values, scales=scales)


def unpack_weights(packed: PackedMatrix) -> np.ndarray:
    """Float32 `(rows, columns)`: the weights the kernels multiply with."""
    if packed.form == "float32":
        return packed.values
    if packed.form == "bfloat16":
        return packing.unpack_bfloat16(packed.values, packed.rows, packed.columns).astype(np.float32)
    assert packed.scales is not None
    integers = packing.unpack_int8(packed.values, packed.rows) if packed.form == "int8" else packing.unpack_int4(packed.values, packed.rows)
    return dequantize(integers, packing.unpack_scales(packed.scales, packed.rows), packed.columns)


def weight_error(weights_RC: np.ndarray, restored_RC: np.ndarray, group: int) -> WeightError:
    """How far `restored_RC` is from `weights_RC`, computed in float64.

    Args:
        weights_RC: the originals.
        restored_RC: float32, of `unpack_weights`.
        group: columns that share a scale; 0 takes whole rows.
    """
    rows, columns = weights_RC.shape
    starts = np.arange(0, columns, group or max(1, columns))
    worst = total = squares = original_squares = worst_of_amax = 0.0
    step = max(1, CHUNK // max(1, columns))
    for first in range(0, rows if columns else 0, step):
        original = as_float32(weights_RC[first : first + step])
        difference = np.abs(restored_RC[first : first + step].astype(np.float64) - original)
        amax = np.maximum.reduceat(np.abs(original), starts, axis=1)
        of_group = np.maximum.reduceat(difference, starts, axis=1)
        worst = max(worst, float(difference.max()))
        worst_of_amax = max(worst_of_amax, float((of_group / np.where(amax == 0, 1, amax)).max()))
        total += float(difference.sum())
        squares += float(np.square(difference).sum())
        original_squares += float(np.square(original, dtype=np.float64).sum())
    count = max(1, rows * columns)
    rms = float(np.sqrt(original_squares / count)) or 1.0
    relative = float(np.sqrt(squares / count)) / rms
    return WeightError(worst=worst, mean=total / count, worst_of_amax=worst_of_amax, worst_of_rms=worst / rms, relative=relative)


def round_up_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The smallest bfloat16 not below each float32, which must be finite and not negative."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16).view(BFLOAT16)


def as_float32(values: np.ndarray) -> np.ndarray:
    """The values in float32; bfloat16 by its bits, which is faster than converting."""
    if values.dtype == BFLOAT16:
        return (np.ascontiguousarray(values).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def not_finite(where: str, row: int) -> CheckpointError:
    """The error of a weight that is NaN or infinite."""
    return CheckpointError(where, f"row {row} holds NaN or an infinite value; such weights are refused.", fix="use a sound checkpoint.")


def _rounded(weights_RC: np.ndarray, where: str) -> np.ndarray:
    rounded = weights_RC if weights_RC.dtype == BFLOAT16 else weights_RC.astype(BFLOAT16)
    _check_finite(rounded, where)
    return rounded


def _check_finite(values: np.ndarray, where: str) -> None:
    for row, line in enumerate(values):
        if not np.isfinite(line).all():
            raise not_finite(where, row)
