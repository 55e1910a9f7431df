"""The kernel library on its own, without MindSpore: find it, check it, load it, call an entry point on numpy arrays.

`$CODELLAMA_KERNEL_LIBRARY` names another file than the one beside this module.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.kernels.build import NAME, VERSION

PATH_VARIABLE = "CODELLAMA_KERNEL_LIBRARY"
LEVELS = ("avx512", "avx2", "neon", "portable")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def library_path() -> Path:
    """Where the library is, or would be."""
    named = os.environ.get(PATH_VARIABLE, "")
    return Path(named) if named else Path(__file__).with_name(NAME)


@cache
def load_library() -> ctypes.CDLL:
    """The checked library; one per process.

    Raises:
        EnvironmentFault: it is missing, damaged, of another version, or cannot be loaded.
    """
    path = library_path()
    fix = "install this package again (a C++ compiler is needed), or write kernels: off."
    if not path.is_file():
        raise EnvironmentFault(path, "the kernel library is not there.", fix=fix)
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        wanted, version = facts["sha256"], facts["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentFault(path.with_suffix(".json"), f"does not describe the kernel library ({error}).", fix=fix) from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
        raise EnvironmentFault(path, "the kernel library is damaged (another checksum than when it was built).", fix=fix)
    if version != VERSION:
        raise EnvironmentFault(path, f"the kernel library has version {version}, this package needs {VERSION}.", fix=fix)
    try:
        library = ctypes.CDLL(str(path))
        found = library.codellama_version()
    except (OSError, AttributeError) as error:
        raise EnvironmentFault(path, f"the kernel library cannot be loaded: {error}", fix=fix) from error
    if found != VERSION:
        raise EnvironmentFault(path, f"the kernel library has version {found}, this package needs {VERSION}.", fix=fix)
    library.codellama_level.restype = ctypes.c_char_p
    return library


def current_level() -> str:
    """Level in use: one of `LEVELS`."""
    return str(load_library().codellama_level().decode())


def use_level(level: str) -> bool:
    """Use a level from now on; False (and nothing changed) when this machine or build does not have it."""
    return load_library().codellama_use_level(level.encode()) == 0


def set_threads(count: int) -> None:
    """Threads of the kernels, at least 1."""
    load_library().codellama_set_threads(max(1, count))


def dtype_text(array: np.ndarray) -> str:
    """MindSpore's name of an array's type."""
    return str(array.dtype)


def call(name: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    """Run an entry point as MindSpore would.

    Args:
        name: of the entry point.
        inputs: C-contiguous arrays; bfloat16 ones of ml_dtypes' type.
        outputs: C-contiguous arrays that are written.

    Raises:
        ValueError: the entry point refused its arguments; its message.
    """
    arrays = [*inputs, *outputs]
    assert all(array.flags.c_contiguous for array in arrays), "arrays must be C-contiguous"
    library = load_library()
    count = len(arrays)
    data = (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays))
    dims = (ctypes.c_int * count)(*(array.ndim for array in arrays))
    kept = [(ctypes.c_int64 * max(1, array.ndim))(*array.shape) for array in arrays]
    shapes = (ctypes.POINTER(ctypes.c_int64) * count)(*(ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)) for shape in kept))
    dtypes = (ctypes.c_char_p * count)(*(dtype_text(array).encode() for array in arrays))
    entry: Any = getattr(library, name)
    if entry(count, data, dims, shapes, dtypes, None, None):
        raise ValueError(last_error())


def last_error() -> str:
    """What the newest failed entry point said."""
    text = ctypes.create_string_buffer(4096)
    load_library().codellama_last_error(text, len(text))
    return text.value.decode(errors="replace")
