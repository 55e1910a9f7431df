"""Files of `torch.save`, read without torch: zip archives and the older plain form.

Zip: `<root>/data.pkl` describes the tensors, `<root>/data/<key>` holds the bytes of each storage, stored
uncompressed, so they are read in place. Plain (torch before 1.6): five pickles, then each storage as an
int64 element count and its bytes. Source: torch/serialization.py, `_save` and `_legacy_save`.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mindformers_codellama.checkpoint.dtypes import TORCH_STORAGES, numpy_dtype
from mindformers_codellama.checkpoint.pickle_subset import Constructor, StateDict, read_pickle
from mindformers_codellama.checkpoint.safetensors_format import read_index
from mindformers_codellama.checkpoint.tensors import ComputedTensor, FileTensor, LazyTensor, Segment
from mindformers_codellama.errors import CheckpointError, raise_all

MAX_PICKLE_BYTES = 64 << 20
"""A 70B state dict takes about 0.2 MB of pickle; more than this is not a list of tensors."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP_DAMAGE = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError, struct.error)
"""What `zipfile` raises on damaged, encrypted or exotic archives."""
_WRAPPERS = ("state_dict", "model", "module")
"""Keys under which trainers nest the tensors."""


@dataclass(frozen=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: Path) -> dict[str, LazyTensor]:
    """Tensors of one `.bin`, `.pt` or `.pth` file, in file order; entries that are not tensors are left out.

    Raises:
        CheckpointError: unreadable, cut short, compressed, big-endian, or a pickle that is more than tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == b"PK\x03\x04":
                return _read_zip(path, file)
            if start[:1] == b"\x80":
                return _read_legacy(path, file)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}.") from error
    raise CheckpointError(path, "is not a torch file (neither a zip archive nor a pickle).", fix="download it again.")


def read_torch_sharded(index: Path) -> dict[str, LazyTensor]:
    """Tensors of all files that a `pytorch_model.bin.index.json` names.

    Raises:
        CheckpointError: every missing file and every tensor the index promises in vain, at once.
    """
    weight_map = read_index(index)
    tensors: dict[str, LazyTensor] = {}
    for name in sorted(set(weight_map.values())):
        tensors.update(read_torch(index.parent / name))
    lost = [name for name in weight_map if name not in tensors]
    raise_all(CheckpointError(index, f"says {weight_map[name]} holds {name}, but it does not.") for name in lost)
    return tensors


def _read_zip(path: Path, file: BinaryIO) -> dict[str, LazyTensor]:
    try:
        archive = zipfile.ZipFile(file)
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in members:
            raise CheckpointError(path, "is a zip archive without data.pkl, not a file of torch.save.")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise CheckpointError(path, "was written on a big-endian machine, which is not supported.")
        described = _read_description(archive, members["data.pkl"], path)
    except _ZIP_DAMAGE as error:
        raise CheckpointError(path, f"is a damaged or cut zip archive ({error}).", fix="download it again.") from error
    size = path.stat().st_size

    def place(storage: _Storage) -> Segment:
        info = members.get(f"data/{storage.key}")
        if info is None:
            raise CheckpointError(path, f"has no bytes for storage {storage.key}.", fix="download it again.")
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                path, "was compressed after torch.save, so it cannot be read in place.", fix="zip -0, or torch.save again."
            )
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
        offset = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        if offset + info.file_size > size:
            raise CheckpointError(path, "is cut short.", fix="download it again.")
        return Segment(path, offset, info.file_size)

    return _resolve(path, described, place)


def _read_description(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Any:
    if info.file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(path, f"its data.pkl has {info.file_size} bytes, too many for a list of tensors.")
    with archive.open(info) as member:
        data = member.read(MAX_PICKLE_BYTES)
    return read_pickle(BytesIO(data), str(path), names=_NAMES, storage=_storage)


def _read_legacy(path: Path, file: BinaryIO) -> dict[str, LazyTensor]:
    where = str(path)
    storages: dict[str, _Storage] = {}

    def storage(identity: Any) -> _Storage:
        found = _storage(identity[:5])
        if len(identity) > 5 and identity[5] is not None:
            raise CheckpointError(
                where, "holds views of storages, a form torch dropped in 2017.", fix="torch.load and torch.save it again."
            )
        storages[found.key] = found
        return found

    if read_pickle(file, where, names={}, storage=_storage) != _LEGACY_MAGIC:
        raise CheckpointError(path, "is a pickle, but not one of torch.save.")
    read_pickle(file, where, names={}, storage=_storage)
    system = read_pickle(file, where, names={}, storage=_storage)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(path, "was written on a big-endian machine, which is not supported.")
    described = read_pickle(file, where, names=_NAMES, storage=storage)
    keys = read_pickle(file, where, names={}, storage=_storage)
    places: dict[str, Segment] = {}
    size = path.stat().st_size
    for key in keys if isinstance(keys, list) else []:
        count = file.read(8)
        if key not in storages:
            raise CheckpointError(path, "is damaged: its list of storages does not match its tensors.")
        segment = Segment(path, file.tell(), int.from_bytes(count, "little") * numpy_dtype(storages[key].dtype).itemsize)
        if len(count) < 8 or segment.offset + segment.nbytes > size:
            raise CheckpointError(path, "is cut short.", fix="download it again.")
        places[key] = segment
        file.seek(segment.offset + segment.nbytes)

    def place(storage: _Storage) -> Segment:
        if storage.key not in places:
            raise CheckpointError(path, f"has no bytes for storage {storage.key}.", fix="download it again.")
        return places[storage.key]

    return _resolve(path, described, place)


def _resolve(path: Path, described: Any, place: Callable[[_Storage], Segment]) -> dict[str, LazyTensor]:
    """Lazy tensors of a described state dict."""
    if isinstance(described, Mapping) and not any(isinstance(value, _Tensor) for value in described.values()):
        described = next((described[key] for key in _WRAPPERS if isinstance(described.get(key), StateDict)), described)
    if not isinstance(described, Mapping):
        raise CheckpointError(path, f"holds a {type(described).__name__}, not a state dict of named tensors.")
    return {str(name): _lazy(f"{path}: {name}", value, place) for name, value in described.items() if isinstance(value, _Tensor)}


def _lazy(where: str, tensor: _Tensor, place: Callable[[_Storage], Segment]) -> LazyTensor:
    dtype = numpy_dtype(tensor.storage.dtype)
    segment = place(tensor.storage)
    empty = 0 in tensor.shape
    span = 0 if empty else 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if (tensor.offset + span) * dtype.itemsize > segment.nbytes:
        raise CheckpointError(where, "reaches beyond the end of its storage; the file is damaged.", fix="download it again.")
    run = Segment(segment.path, segment.offset + tensor.offset * dtype.itemsize, span * dtype.itemsize)
    if empty or _is_contiguous(tensor.shape, tensor.strides):
        return FileTensor(tensor.shape, tensor.storage.dtype, (run,))
    if any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.strides, strict=True)):
        raise CheckpointError(where, "is an expanded view (stride 0).", fix="save it with .contiguous().")

    def make() -> np.ndarray:
        flat = FileTensor((span,), tensor.storage.dtype, (run,)).read()
        steps = [stride * dtype.itemsize for stride in tensor.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, tensor.shape, steps))

    return ComputedTensor(tensor.shape, tensor.storage.dtype, make)


def _is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _storage(identity: Any) -> _Storage:
    """A persistent id: `("storage", type, key, device, number of elements)`."""
    kind, storage_type, key, _, numel = identity
    if kind != "storage" or not isinstance(storage_type, _StorageType) or not isinstance(numel, int):
        raise ValueError("unknown kind of persistent id")
    return _Storage(str(key), storage_type.dtype, numel)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a tensor is described wrongly")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _ordered_dict(pairs: Any = ()) -> StateDict:
    return StateDict((str(key), value) for key, value in pairs)


_NAMES: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Constructor("OrderedDict", _ordered_dict),
    ("torch._utils", "_rebuild_tensor"): Constructor("_rebuild_tensor", _rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Constructor("_rebuild_tensor_v2", _rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Constructor("_rebuild_parameter", _rebuild_parameter),
    ("torch", "Size"): Constructor("Size", tuple),
    **{("torch", name): _StorageType(dtype) for name, dtype in TORCH_STORAGES.items()},
}
"""Every name a file may use; all stand for code of this module."""
