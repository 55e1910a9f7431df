"""Element types by one name each, and how every file format spells them.

Names are numpy's (`float32`, `bfloat16`, ...); bfloat16 arrays are `ml_dtypes.bfloat16`.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from mindformers_codellama.errors import CheckpointError

WEIGHT_DTYPES = ("float32", "float16", "bfloat16")
"""What a weight may be after conversion."""

_NUMPY_NAMES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")

SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Header `dtype` of safetensors -> our name."""

MINDSPORE = {
    "Float64": "float64",
    "Float32": "float32",
    "Float16": "float16",
    "BFloat16": "bfloat16",
    "Int64": "int64",
    "Int32": "int32",
    "Int16": "int16",
    "Int8": "int8",
    "UInt64": "uint64",
    "UInt32": "uint32",
    "UInt16": "uint16",
    "UInt8": "uint8",
    "Bool": "bool",
}
"""`tensor_type` of a MindSpore .ckpt -> our name."""

TORCH_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
"""Class name of a pickled torch storage -> our name."""


def numpy_dtype(name: str) -> np.dtype:
    """The numpy type of one of our names."""
    if name == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    assert name in _NUMPY_NAMES, name
    return np.dtype(name)


def dtype_name(dtype: np.dtype) -> str:
    """Our name of a numpy type; MindSpore's own bfloat16 type counts as bfloat16.

    Raises:
        CheckpointError: for types no checkpoint holds (complex, object, text).
    """
    if dtype.name in _NUMPY_NAMES or dtype.name == "bfloat16":
        return dtype.name
    raise CheckpointError(str(dtype), "this element type cannot be stored in a checkpoint.", fix="cast to float32, float16 or bfloat16.")


def cast(values: np.ndarray, to: str, where: str) -> np.ndarray:
    """`values` as type `to`, rounded to nearest even as torch does; the same array when nothing changes.

    bfloat16 <-> float16 goes through float32, which holds both exactly.

    Raises:
        CheckpointError: a finite value does not fit float16 (it would silently become infinity).
    """
    source = dtype_name(values.dtype)
    if source == to:
        return values
    if "bfloat16" in (source, to) and "float32" not in (source, to):
        values = values.astype(np.float32)
    try:
        with np.errstate(over="raise"):
            return values.astype(numpy_dtype(to))
    except FloatingPointError:
        finite = values[np.isfinite(values)]
        largest = float(np.abs(finite).max())
        fix = "convert with --dtype bfloat16 or float32."
        raise CheckpointError(where, f"holds values up to {largest:g}, beyond what {to} can hold.", fix=fix) from None
