"""Memory that the C library holds after it was freed."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Return freed memory to the system: compiling a graph leaves some of it behind. Only with glibc."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
