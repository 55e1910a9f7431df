"""Layouts of packed matrices: numpy is their truth, `csrc/packed.h` reads them.

Letters: R rows, C columns (padded with zeros to whole groups), G groups of a row, T tiles of 16 rows (the last one padded with zeros).
Functions take and give C-contiguous arrays.
"""

from __future__ import annotations

import numpy as np

from mindformers_codellama.quantization.formats import BFLOAT16, padded_columns

TILE = 16
"""Rows of a tile."""


def packed_shape(rows: int, columns: int, form: str, group: int) -> tuple[int, ...]:
    """Shape of a packed matrix: uint8 for int8 and int4, bfloat16 for bfloat16, `(rows, columns)` for float32."""
    tiles, width = -(-rows // TILE), padded_columns(columns, form, group)
    return {
        "float32": (rows, columns),
        "bfloat16": (tiles, width // 2, TILE, 2),
        "int8": (tiles, width // 4, TILE, 4),
        "int4": (tiles, width // 8, TILE, 4),
    }[form]


def scales_shape(rows: int, columns: int, group: int) -> tuple[int, int, int]:
    """Shape of a packed matrix's bfloat16 scales."""
    return -(-rows // TILE), -(-columns // group), TILE


def pack_bfloat16(values_RC: np.ndarray) -> np.ndarray:
    """Bfloat16 `(R, C)` of any C to tiles."""
    return _to_tiles(values_RC, 2, BFLOAT16)


def unpack_bfloat16(packed: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The opposite of `pack_bfloat16`."""
    return _from_tiles(packed, rows)[:, :columns]


def pack_int8(values_RC: np.ndarray) -> np.ndarray:
    """int8 in [-127, 127], C a multiple of 4, to uint8 tiles of value + 128."""
    return _to_tiles((values_RC.view(np.uint8) ^ 0x80), 4, np.dtype(np.uint8), fill=128)


def unpack_int8(packed: np.ndarray, rows: int) -> np.ndarray:
    """The opposite of `pack_int8`."""
    return (_from_tiles(packed, rows) ^ 0x80).view(np.int8)


def pack_int4(values_RC: np.ndarray) -> np.ndarray:
    """int8 in [-7, 7], C a multiple of 8, to uint8 tiles: byte j of 8 columns has column j low and column 4 + j high, each + 8."""
    rows, columns = values_RC.shape
    nibbles = (values_RC + np.int8(8)).view(np.uint8).reshape(rows, columns // 8, 2, 4)
    both = nibbles[:, :, 0] | (nibbles[:, :, 1] << 4)
    return _to_tiles(both.reshape(rows, columns // 2), 4, np.dtype(np.uint8), fill=0x88)


def unpack_int4(packed: np.ndarray, rows: int) -> np.ndarray:
    """The opposite of `pack_int4`."""
    both = _from_tiles(packed, rows)
    both = both.reshape(rows, both.shape[1] // 4, 4)
    nibbles = np.stack([both & 15, both >> 4], axis=2).reshape(rows, both.shape[1] * 8)
    return nibbles.view(np.int8) - np.int8(8)


def pack_scales(scales_RG: np.ndarray) -> np.ndarray:
    """Bfloat16 `(R, G)` to `(T, G, 16)`."""
    return np.ascontiguousarray(_to_tiles(scales_RG, 1, BFLOAT16)[..., 0])


def unpack_scales(packed: np.ndarray, rows: int) -> np.ndarray:
    """The opposite of `pack_scales`."""
    return _from_tiles(packed[..., None], rows)


def _to_tiles(values_RC: np.ndarray, run: int, dtype: np.dtype, *, fill: int = 0) -> np.ndarray:
    """`(T, C / run, 16, run)`: runs of neighbouring columns of 16 rows beside each other; `fill` where rows or columns are missing."""
    rows, columns = values_RC.shape
    tiles, runs = -(-rows // TILE), -(-columns // run)
    if (rows, columns) != (tiles * TILE, runs * run):
        padded = np.full((tiles * TILE, runs * run), fill, dtype)
        padded[:rows, :columns] = values_RC
        values_RC = padded
    return np.ascontiguousarray(values_RC.reshape(tiles, TILE, runs, run).transpose(0, 2, 1, 3))


def _from_tiles(packed: np.ndarray, rows: int) -> np.ndarray:
    tiles, runs, _, run = packed.shape
    return np.ascontiguousarray(packed.transpose(0, 2, 1, 3).reshape(tiles * TILE, runs * run)[:rows])
