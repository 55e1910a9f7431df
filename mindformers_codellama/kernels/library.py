"""The kernel library on its own, without MindSpore: find it, check it, load it, call an entry point on numpy arrays.

`$CODELLAMA_KERNEL_LIBRARY` names another file than the one beside this module; `$CODELLAMA_KERNEL_SPIN` is how many
microseconds its threads spin before they sleep.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mindformers_codellama.errors import ConfigError
from mindformers_codellama.kernels.build import VERSION
from mindformers_codellama.kernels.library_file import PATH_VARIABLE as PATH_VARIABLE
from mindformers_codellama.kernels.library_file import LibraryFile, check_file, fault
from mindformers_codellama.kernels.library_file import library_path as library_path
from mindformers_codellama.kernels.self_test import finds_fault
from mindformers_codellama.runtime.cores import usable_cores

SPIN_VARIABLE = "CODELLAMA_KERNEL_SPIN"
LEVELS = ("avx512", "avx2", "neon", "portable")
"""The best first."""
FUNCTIONS = tuple(
    f"codellama_{name}" for name in ("version", "last_error", "level", "use_level", "threads", "set_threads", "spin", "set_spin")
)
"""Of the library as a whole, besides its entry points."""
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LONGEST_SPIN = 1_000_000
"""Microseconds."""

logger = logging.getLogger(__name__)


class _Loaded(NamedTuple):
    """A library that computes what it should."""

    library: ctypes.CDLL
    file: LibraryFile
    levels: tuple[str, ...]
    """This machine has and computes right with; the best first."""


def load_library() -> ctypes.CDLL:
    """The checked library; one per process. Its threads are the cores this process may use until `set_threads`.

    Raises:
        EnvironmentFault: it is missing, damaged, of another version, cannot be loaded, or computes wrong values.
        ConfigError: `$CODELLAMA_KERNEL_SPIN` is no number of microseconds.
    """
    return _load().library


@cache
def _load() -> _Loaded:
    file = check_file(library_path())
    path = file.path
    try:
        library = ctypes.CDLL(str(path.resolve()))
        for function in FUNCTIONS:
            getattr(library, function)
    except (OSError, AttributeError) as error:
        raise fault(path, f"the kernel library cannot be loaded: {error}.") from error
    if library.codellama_version() != VERSION:
        raise fault(path, f"the kernel library has version {library.codellama_version()}, this package needs {VERSION}.")
    library.codellama_level.restype = ctypes.c_char_p
    library.codellama_set_spin(_spin(library))
    library.codellama_set_threads(1)  # the tests below need no others
    levels, faults = _trusted_levels(library)
    library.codellama_set_threads(usable_cores())
    if "portable" not in levels:
        raise fault(path, f"the kernel library computes wrong values on this machine: {faults['portable']}.")
    for level, problem in faults.items():
        logger.warning("kernels: level %s is not used, because it computes wrong values on this machine: %s", level, problem)
    library.codellama_use_level(levels[0].encode())
    return _Loaded(library, file, levels)


def _trusted_levels(library: ctypes.CDLL) -> tuple[tuple[str, ...], dict[str, str]]:
    """Levels that pass the self test, and what the others do wrong."""
    levels, faults = [], {}
    for level in LEVELS:
        if library.codellama_use_level(level.encode()) == 0:
            problem = finds_fault(lambda name, inputs, outputs: _call(library, name, inputs, outputs))
            if problem:
                faults[level] = problem
            else:
                levels.append(level)
    return tuple(levels), faults


def _spin(library: ctypes.CDLL) -> int:
    given = os.environ.get(SPIN_VARIABLE, "").strip()
    if not given:
        return int(library.codellama_spin())
    if not given.isdecimal() or int(given) > LONGEST_SPIN:
        raise ConfigError(SPIN_VARIABLE, f"got {given!r}, must be microseconds from 0 to {LONGEST_SPIN}.", fix="unset it, or write 50.")
    return int(given)


def library_file() -> LibraryFile:
    """What is known of the loaded library's file."""
    return _load().file


def usable_levels() -> tuple[str, ...]:
    """Levels this machine and this build have and that compute right; the best first."""
    return _load().levels


def current_level() -> str:
    """Level in use: one of `LEVELS`."""
    return str(load_library().codellama_level().decode())


def use_level(level: str) -> bool:
    """Use a level from now on; False (and nothing changed) when it is none of `usable_levels`."""
    return level in usable_levels() and load_library().codellama_use_level(level.encode()) == 0


def set_threads(count: int) -> None:
    """Threads of the kernels from now on, at least 1; not to be called while a kernel of this thread runs."""
    load_library().codellama_set_threads(max(1, count))


def threads() -> int:
    """Threads of the kernels."""
    return int(load_library().codellama_threads())


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
    _call(load_library(), name, inputs, outputs)


def _call(library: ctypes.CDLL, name: str, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    arrays = [*inputs, *outputs]
    assert all(array.flags.c_contiguous for array in arrays), "arrays must be C-contiguous"
    count = len(arrays)
    data = (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays))
    dims = (ctypes.c_int * count)(*(array.ndim for array in arrays))
    kept = [(ctypes.c_int64 * max(1, array.ndim))(*array.shape) for array in arrays]
    shapes = (ctypes.POINTER(ctypes.c_int64) * count)(*(ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)) for shape in kept))
    dtypes = (ctypes.c_char_p * count)(*(dtype_text(array).encode() for array in arrays))
    entry: Any = getattr(library, name)
    if entry(count, data, dims, shapes, dtypes, None, None):
        raise ValueError(_last_error(library))


def last_error() -> str:
    """What the newest failed entry point said."""
    return _last_error(load_library())


def _last_error(library: ctypes.CDLL) -> str:
    text = ctypes.create_string_buffer(4096)
    library.codellama_last_error(text, len(text))
    return text.value.decode(errors="replace")
