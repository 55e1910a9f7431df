"""Packing of weights with all cores, giving the bytes of `quantization.quantize`; numpy where there is no kernel library."""

from __future__ import annotations

import re

import numpy as np

from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.kernels.library import call, load_library
from mindformers_codellama.quantization.formats import BFLOAT16, FORMS, LIMITS, check_form
from mindformers_codellama.quantization.packing import packed_shape, scales_shape
from mindformers_codellama.quantization.quantize import PackedMatrix, not_finite, pack_weights


def pack_weights_fast(weights_RC: np.ndarray, form: str, group: int, *, where: str = "weights") -> PackedMatrix:
    """`quantize.pack_weights` by the kernels: the same arguments, bytes and errors.

    Forms or element types the kernels do not pack (float32, float16), and machines without the library, take numpy.

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
    if form == "float32" or weights_RC.dtype not in (np.float32, BFLOAT16) or not _has_library():
        return pack_weights(weights_RC, form, group, where=where)
    rows, columns = weights_RC.shape
    scales = np.empty(scales_shape(rows, columns, group), BFLOAT16) if form in LIMITS else None
    values = np.empty(packed_shape(rows, columns, form, group), np.uint8 if form in LIMITS else BFLOAT16)
    pack_into(weights_RC, form, group, values, scales, where=where)
    return PackedMatrix(form=form, group=group, rows=rows, columns=columns, values=values, scales=scales)


def pack_into(
    weights_RC: np.ndarray, form: str, group: int, values: np.ndarray, scales: np.ndarray | None, *, where: str = "weights"
) -> None:
    """Pack float32 or bfloat16 weights into memory that is there, a part of a larger array for example.

    Args:
        weights_RC: finite.
        form: `bfloat16`, `int8` or `int4`.
        group: columns that share a scale; 0 for bfloat16.
        values: written; uint8, or bfloat16 or uint16 of the form bfloat16; C-contiguous.
        scales: written; bfloat16 or uint16; None of the form bfloat16.
        where: the tensor's name, for the error.

    Raises:
        CheckpointError: a weight is NaN or infinite, or too large for bfloat16.
        EnvironmentFault: there is no kernel library.
    """
    settings = np.array([FORMS.index(form), *weights_RC.shape, group], np.int32)
    outputs = [values] if scales is None else [values, scales]
    try:
        call("PackWeights" if scales is None else "QuantizeWeights", [np.ascontiguousarray(weights_RC), settings], outputs)
    except ValueError as error:
        found = re.search(r"row (\d+) holds NaN", str(error))
        if found is None:
            raise
        raise not_finite(where, int(found[1])) from None


def _has_library() -> bool:
    try:
        load_library()
    except EnvironmentFault:
        return False
    return True
