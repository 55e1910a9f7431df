"""The forms weights can have in memory and in files, by name."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from mindformers_codellama.errors import ConfigError

FORMS = ("float32", "bfloat16", "int8", "int4")
LIMITS = {"int8": 127, "int4": 7}
"""Forms of integers with scales, to the largest absolute integer; the range is symmetric."""
GROUPS = (64, 128)
"""Columns that may share a scale."""
DEFAULT_GROUP = 64
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def check_form(form: str, group: int, *, where: str = "weights") -> None:
    """Refuse a form or group the kernels do not know; forms without scales take the group 0 alone.

    Args:
        form: one of `FORMS`.
        group: columns that share a scale.
        where: the key or option it was written in.

    Raises:
        ConfigError: it is another one.
    """
    if form not in FORMS:
        raise ConfigError(where, f"got {form!r}, known are {', '.join(FORMS)}.")
    allowed = GROUPS if form in LIMITS else (0,)
    if group not in allowed:
        known = " and ".join(map(str, allowed))
        raise ConfigError(where, f"got groups of {group} columns, {form} knows {known}.", fix=f"use {allowed[0]}.")


def padded_columns(columns: int, form: str, group: int) -> int:
    """Columns of a packed matrix: up to whole groups, or to an even number for bfloat16."""
    step = group if form in LIMITS else 2 if form == "bfloat16" else 1
    return -(-columns // step) * step


def bits_per_weight(form: str, group: int) -> float:
    """Bits one weight takes with its share of the scale, padding aside."""
    bits = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}[form]
    return bits + 16 / group if form in LIMITS else float(bits)
