"""Packing weights with the kernels: the bytes of `quantization.quantize.pack_weights`, by all cores."""

from __future__ import annotations

import numpy as np

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.kernels.library import call
from mindformers_codellama.quantization import quantize
from mindformers_codellama.quantization.formats import BFLOAT16, FORMS, LIMITS, check_form
from mindformers_codellama.quantization.packing import packed_shape, scales_shape
from mindformers_codellama.quantization.quantize import PackedMatrix


def pack_weights(weights_RC: np.ndarray, form: str, group: int, *, where: str = "weights") -> PackedMatrix:
    """A matrix in a form; arguments and errors as `quantization.quantize.pack_weights`.

    Raises:
        EnvironmentFault: the kernel library cannot be used.
    """
    check_form(form, group)
    if form == "float32" or not weights_RC.size:
        return quantize.pack_weights(weights_RC, form, group, where=where)
    rows, columns = weights_RC.shape
    floats = np.ascontiguousarray(quantize.as_float32(weights_RC))
    settings = np.array([FORMS.index(form), rows, columns, group], np.int32)
    dtype = np.dtype(np.uint8) if form in LIMITS else BFLOAT16
    values = np.empty(packed_shape(rows, columns, form, group), dtype)
    scales = np.empty(scales_shape(rows, columns, group), BFLOAT16) if form in LIMITS else None
    try:
        if scales is not None:
            call("QuantizeWeights", [floats, settings], [values, scales])
        else:
            call("PackWeights", [floats, settings], [values])
    except ValueError as error:
        bad = np.flatnonzero(~np.isfinite(floats.astype(values.dtype if scales is None else np.float32)).all(-1))
        if not bad.size:
            raise CheckpointError(where, f"cannot be packed: {error}") from error
        raise quantize.not_finite(where, int(bad[0])) from error
    return PackedMatrix(form=form, group=group, rows=rows, columns=columns, values=values, scales=scales)
