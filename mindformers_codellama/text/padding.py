"""Rows of unequal length: truncation, padding, attention mask, arrays. Pure functions over lists."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mindformers_codellama.errors import TokenizerError

PADDING = (False, True, "longest", "max_length", "do_not_pad")
SIDES = ("right", "left")


def require_side(side: object) -> None:
    """Raise `TokenizerError` for a side that is neither "right" nor "left"."""
    if side not in SIDES:
        raise TokenizerError("padding_side", f"got {side!r}, allowed: 'right', 'left'.")


def truncate_rows(rows: Sequence[list[int]], max_length: int, *, keep_last: bool) -> list[list[int]]:
    """Cut ids off the end of longer rows; with `keep_last` the last id (eos) stays.

    Raises:
        TokenizerError: `max_length` below 0.
    """
    if max_length < 0:
        raise TokenizerError("max_length", f"got {max_length}, must be at least 0.")
    keep = int(keep_last)
    return [row if len(row) <= max_length else row[: max(max_length - keep, 0)] + row[len(row) - keep :] for row in rows]


def padded_length(rows: Sequence[Sequence[int]], padding: bool | str, max_length: int | None) -> int:
    """The length every row is padded up to; 0 means no padding.

    Raises:
        TokenizerError: unknown `padding`, or "max_length" without a length.
    """
    if padding not in PADDING:
        raise TokenizerError("padding", f"got {padding!r}, allowed: {', '.join(map(repr, PADDING))}.")
    if padding == "max_length":
        if max_length is None:
            raise TokenizerError("padding", 'padding="max_length" needs a length.', fix="add max_length=..., or write padding=True.")
        return max_length
    if padding in (True, "longest"):
        return max(map(len, rows), default=0)
    return 0


def pad_rows(rows: Sequence[Sequence[int]], length: int, pad_id: int, side: str) -> tuple[list[list[int]], list[list[int]]]:
    """Rows filled up to `length` on one side, and masks with 1 for text and 0 for padding; longer rows stay as they are.

    Raises:
        TokenizerError: `side` is neither "right" nor "left".
    """
    require_side(side)
    padded, masks = [], []
    for row in rows:
        missing = max(length - len(row), 0)
        fill, ones, zeros = [pad_id] * missing, [1] * len(row), [0] * missing
        padded.append([*row, *fill] if side == "right" else [*fill, *row])
        masks.append(ones + zeros if side == "right" else zeros + ones)
    return padded, masks


def to_tensor(rows: Sequence[Sequence[int]], kind: str) -> Any:
    """An int32 array `(B, T)`: "np" for numpy, "ms" for a MindSpore tensor.

    Raises:
        TokenizerError: rows of unequal length, or another `kind`.
    """
    if kind not in ("np", "ms"):
        raise TokenizerError("return_tensors", f"got {kind!r}, allowed: 'np', 'ms', None.")
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise TokenizerError(
            "return_tensors", f"rows have {lengths[0]} to {lengths[-1]} ids; an array needs one length.", fix="add padding=True."
        )
    array = np.array(rows, dtype=np.int32).reshape(len(rows), -1) if rows else np.zeros((0, 0), np.int32)
    if kind == "np":
        return array
    # The text layer does without MindSpore. A caller who asks for its tensors has it; nothing else here ever loads it,
    # and tests/unit/text holds that.
    return importlib.import_module("mindspore").Tensor(array)


def as_list(ids: Any) -> Any:
    """Nested lists of whatever holds ids: int, sequence, numpy array, MindSpore tensor.

    Raises:
        TokenizerError: something that is no whole number, such as a text or a float.
    """
    if hasattr(ids, "asnumpy"):
        ids = ids.asnumpy()
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if isinstance(ids, (list, tuple, range)):
        return [as_list(item) for item in ids]
    if not isinstance(ids, int):
        raise TokenizerError("ids", f"must be whole numbers, got {ids!r}.", fix="encode gives ids of a text.")
    return ids
