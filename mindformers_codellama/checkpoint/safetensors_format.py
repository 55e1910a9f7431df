"""safetensors files: header checked before anything is believed, bytes read in pieces.

Layout: 8 bytes little-endian header length, JSON header `name -> {dtype, shape, data_offsets}`,
then the tensors without gaps. Source: huggingface/safetensors README, section "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mindformers_codellama.checkpoint.dtypes import SAFETENSORS, numpy_dtype
from mindformers_codellama.checkpoint.files import FileRecord, Output, atomic_file
from mindformers_codellama.checkpoint.tensors import FileTensor, LazyTensor, Segment, tensor_bytes
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, Findings, raise_all

MAX_HEADER_BYTES = 100_000_000
"""Limit of the format's own reader."""
_CODES = {name: code for code, name in SAFETENSORS.items()}


def read_safetensors(path: Path) -> tuple[dict[str, FileTensor], dict[str, str]]:
    """Tensors of one file in the order of the header, and its metadata.

    Raises:
        CheckpointError: not such a file, cut short, or an element type numpy cannot hold.
    """
    header, start, end = _read_header(path)
    metadata = header.pop("__metadata__", {})
    tensors: dict[str, FileTensor] = {}
    problems = []
    for name, entry in header.items():
        try:
            tensors[name] = _tensor(path, entry, start)
        except _BadEntry as bad:
            problems.append(CheckpointError(f"{path}: {name}", str(bad), fix=bad.fix))
    ends = [segment.offset + segment.nbytes for tensor in tensors.values() for segment in tensor.segments]
    if max(ends, default=0) > end:
        lost = sum(place > end for place in ends)
        problem = f"is cut short: it has {end} bytes, its tensors end at {max(ends)}; {lost} of {len(header)} are not whole."
        problems.append(CheckpointError(path, problem, fix="download it again."))
    raise_all(problems)
    return tensors, {str(key): str(value) for key, value in dict(metadata).items()}


def read_sharded(index: Path) -> tuple[dict[str, FileTensor], dict[str, str]]:
    """Tensors of all files that an `*.safetensors.index.json` names.

    Raises:
        CheckpointError: every missing or damaged file and every tensor the index promises in vain, at once.
    """
    weight_map = read_index(index)
    tensors: dict[str, FileTensor] = {}
    metadata: dict[str, str] = {}
    damaged: list[CodeLlamaError] = []
    for name in sorted(set(weight_map.values())):
        try:
            found, metadata = read_safetensors(index.parent / name)
        except CodeLlamaError as error:
            damaged.extend(error if isinstance(error, Findings) else [error])
            continue
        tensors.update({key: value for key, value in found.items() if weight_map.get(key, name) == name})
    raise_all(damaged)
    lost = [name for name in weight_map if name not in tensors]
    raise_all(CheckpointError(index, f"says {weight_map[name]} holds {name}, but it does not.") for name in lost)
    return tensors, metadata


def read_index(index: Path) -> dict[str, str]:
    """`weight_map` of an index file (safetensors or .bin), every named file present.

    Raises:
        CheckpointError: unreadable JSON, a name with a path in it, missing files.
    """
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except OSError as error:
        raise CheckpointError(index, f"cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(index, "is not an index of weight files (JSON with `weight_map`).") from error
    if any(not isinstance(name, str) or Path(name).name != name for name in files):
        raise CheckpointError(index, "names files outside its own directory.")
    missing = [name for name in files if not (index.parent / name).is_file()]
    raise_all(CheckpointError(index.parent / name, "is missing, but the index names it.", fix="download it again.") for name in missing)
    return dict(weight_map)


def write_safetensors(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    *,
    metadata: Mapping[str, str],
    force: bool = False,
    on_bytes: Callable[[int], object] | None = None,
) -> FileRecord:
    """Write one file, streaming; it appears whole or not at all.

    Raises:
        CheckpointError: as `atomic_file`, or from reading the tensors.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor_bytes(tensor)
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path, force=force) as file:
        output = Output(file, hashed=True, on_bytes=on_bytes)
        output.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for piece in tensor.chunks():
                output.write_array(piece)
        assert output.size == 8 + len(text) + offset, "a tensor gave another number of bytes than its shape says"
    return output.record(path.name)


class _BadEntry(Exception):
    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem)
        self.fix = fix


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Parsed header, offset of the first data byte, size of the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > MAX_HEADER_BYTES:
                raise CheckpointError(path, "is not a safetensors file (no header length at its start).")
            if 8 + length > size:
                raise CheckpointError(path, f"is cut short: {size} bytes, the header alone takes {8 + length}.", fix="download it again.")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, "is not a safetensors file: its header is not JSON.") from error
    if not isinstance(header, dict):
        raise CheckpointError(path, "is not a safetensors file: its header is not a JSON object.")
    return header, 8 + length, size


def _tensor(path: Path, entry: Any, start: int) -> FileTensor:
    try:
        code, shape = entry["dtype"], tuple(entry["shape"])
        first, last = entry["data_offsets"]
        whole = all(isinstance(n, int) and n >= 0 for n in (*shape, first, last))
    except (KeyError, TypeError, ValueError):
        raise _BadEntry("has a damaged header entry.") from None
    if not whole or first > last:
        raise _BadEntry("has a damaged header entry.")
    if code not in SAFETENSORS:
        raise _BadEntry(f"is of type {code}, which is not supported.", "convert a checkpoint in float32, float16 or bfloat16.")
    dtype = SAFETENSORS[code]
    needed = math.prod(shape) * numpy_dtype(dtype).itemsize
    if needed != last - first:
        raise _BadEntry(f"shape {list(shape)} of {dtype} takes {needed} bytes, the header gives {last - first}.")
    return FileTensor(shape, dtype, (Segment(path, start + first, last - first),))
