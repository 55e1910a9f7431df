"""Open any checkpoint by its path and read tensors under MindFormers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_codellama.checkpoint.adapter_config import CONFIG_FILE
from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.checkpoint.hf_config import read_hf_config
from mindformers_codellama.checkpoint.latest import get_last_checkpoint
from mindformers_codellama.checkpoint.manifest import read_manifest
from mindformers_codellama.checkpoint.meta_format import read_meta
from mindformers_codellama.checkpoint.packed_manifest import refuse_packed
from mindformers_codellama.checkpoint.safetensors_format import read_safetensors, read_sharded
from mindformers_codellama.checkpoint.tensors import ComputedTensor, FileTensor, LazyTensor
from mindformers_codellama.checkpoint.torch_format import read_torch, read_torch_sharded
from mindformers_codellama.checkpoint.weight_map import QKV_CONCAT, is_dropped, match, to_ours
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError

_EMBEDDING, _HEAD = "model.tok_embeddings.embedding_weight", "lm_head.weight"


@dataclass(frozen=True)
class CheckpointReader:
    """Tensors of a checkpoint by MindFormers' names; names no rule knows stay as they are."""

    path: Path
    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, Any]
    """`format` (hf-safetensors, hf-torch, ms-ckpt, ms-safetensors, meta), `files`, and what the files carry."""
    config: ModelConfig | None = None
    """Configuration found beside the weights."""
    strings: Mapping[str, str] = field(default_factory=dict)
    """Text values of a .ckpt."""
    dropped: tuple[str, ...] = ()
    """Names in the files that were left out on purpose."""

    def names(self) -> list[str]:
        """All names, in file order."""
        return list(self.tensors)

    def tensor(self, name: str) -> LazyTensor:
        """A tensor that can be read in pieces.

        Raises:
            CheckpointError: no such name.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.path}: {name}", "is not in this checkpoint.")
        return self.tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; errors as `tensor`."""
        return self.tensor(name).shape

    def dtype(self, name: str) -> str:
        """Element type of a tensor, e.g. `bfloat16`; errors as `tensor`."""
        return self.tensor(name).dtype

    def read(self, name: str) -> np.ndarray:
        """A whole tensor, bfloat16 as `ml_dtypes.bfloat16`; errors as `tensor`."""
        return self.tensor(name).read()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every name and shape."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def open_checkpoint(path: str | Path) -> CheckpointReader:
    """Open a checkpoint of any supported form; only headers are read.

    Args:
        path: a Hugging Face directory (safetensors or `pytorch_model*.bin`), a `.ckpt`, a `.safetensors`, `.bin`
            or `.pth` file, a Meta directory, one of our directories, or a directory with `.ckpt` files: directly
            (the newest, or all when they hold different tensors), in `rank_0/`, or as shards in `rank_0/`, `rank_1/`, ...

    Raises:
        CheckpointError: nothing there, nothing recognised, or damaged; each message names the file. Packed weights
            (`codellama quantize`), which `packed_open.open_packed` opens.
    """
    path = Path(path)
    refuse_packed(path)
    if path.is_dir():
        return _open_directory(path)
    if not path.exists():
        raise CheckpointError(path, "does not exist.", fix="give a checkpoint file or directory.")
    if path.name.endswith(".index.json"):
        return _open_directory(path.parent)
    if path.suffix == ".ckpt":
        return _open_ckpt([path])
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        return _named(path, dict(tensors), "safetensors", [path], metadata)
    if path.name.startswith("consolidated."):
        return _open_directory(path.parent)
    if path.suffix in (".bin", ".pth", ".pt"):
        return _named(path, read_torch(path), "torch", [path], {})
    fix = "one of .ckpt, .safetensors, .bin, .pth or a directory."
    raise CheckpointError(path, "is no known kind of checkpoint.", fix=fix)


def _open_directory(folder: Path) -> CheckpointReader:
    for index in (folder / "model.safetensors.index.json", folder / "weights.safetensors.index.json"):
        if index.is_file():
            tensors, metadata = read_sharded(index)
            return _named(folder, dict(tensors), "safetensors", _files(dict(tensors)), metadata)
    for single in (folder / "model.safetensors", folder / "weights.safetensors"):
        if single.is_file():
            tensors, metadata = read_safetensors(single)
            return _named(folder, dict(tensors), "safetensors", [single], metadata)
    index = folder / "pytorch_model.bin.index.json"
    if index.is_file():
        loaded = read_torch_sharded(index)
        return _named(folder, loaded, "torch", sorted(folder.glob("pytorch_model-*.bin")), {})
    if (folder / "pytorch_model.bin").is_file():
        return _named(folder, read_torch(folder / "pytorch_model.bin"), "torch", [folder / "pytorch_model.bin"], {})
    if any(folder.glob("consolidated.*.pth")):
        meta, config, dropped = read_meta(folder)
        about: dict[str, Any] = {"format": "meta", "files": [file.name for file in sorted(folder.glob("consolidated.*.pth"))]}
        return CheckpointReader(folder, meta, about, config, dropped=dropped)
    return _open_ckpt_directory(folder)


def _open_ckpt_directory(folder: Path) -> CheckpointReader:
    for below in (folder, folder / "checkpoint", folder / "checkpoint_network"):
        if (below / "rank_0").is_dir():
            if any(entry.is_dir() and entry.name != "rank_0" for entry in below.glob("rank_*")):
                from mindformers_codellama.checkpoint.sharded import open_sharded  # which builds on this module

                return open_sharded(below)
            newest = get_last_checkpoint(below / "rank_0")
            if newest is not None:
                return _open_ckpt([Path(newest)])
    files = sorted(file for file in folder.glob("*.ckpt") if not file.name.startswith("."))
    if not files and (folder / CONFIG_FILE).is_file():
        fix = "name the model it was trained on; the adapter itself goes to --adapter or codellama merge-lora."
        raise CheckpointError(folder, "is a low-rank adapter, not a model.", fix=fix)
    if not files:
        wanted = "model.safetensors, pytorch_model.bin, consolidated.00.pth or *.ckpt"
        raise CheckpointError(folder, f"holds no checkpoint ({wanted}).", fix="give the directory that has the weight files.")
    if len(files) > 1 and _overlap(files):
        newest = get_last_checkpoint(folder)
        files = [Path(newest)] if newest else files
    return _open_ckpt(files)


def _overlap(files: list[Path]) -> bool:
    """Whether files hold the same tensors (several saves of one run) instead of parts of one model."""
    seen: set[str] = set()
    for file in files:
        try:
            names = set(scan_ckpt(file).tensors)
        except CheckpointError:
            return True
        if names & seen:
            return True
        seen |= names
    return False


def _open_ckpt(files: list[Path]) -> CheckpointReader:
    tensors: dict[str, LazyTensor] = {}
    strings: dict[str, str] = {}
    crc = True
    for file in files:
        contents = scan_ckpt(file)
        tensors |= contents.tensors
        strings |= contents.strings
        crc = crc and contents.crc
    return _named(files[0] if len(files) == 1 else files[0].parent, tensors, "ckpt", files, {"crc": crc}, strings)


def _named(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    form: str,
    files: list[Path],
    metadata: Mapping[str, Any],
    strings: Mapping[str, str] | None = None,
) -> CheckpointReader:
    """A reader with our names, whatever the names in the files are."""
    foreign = any(name not in (_HEAD,) and to_ours(name) for name in tensors)
    config, tied = None, False
    found_config = path / "config.json" if path.is_dir() else path.with_name("config.json")
    if foreign and found_config.is_file():
        config, tied = read_hf_config(found_config)
    manifest: dict[str, Any] = {}
    if not foreign:
        config, manifest = read_manifest(path)
    named: dict[str, LazyTensor] = {}
    dropped = []
    for name, tensor in tensors.items():
        if is_dropped(name):
            dropped.append(name)
        elif match(name, (QKV_CONCAT,), theirs=False):
            named.update(_split_qkv(path, name, tensor))
        else:
            named[(to_ours(name) if foreign else None) or name] = tensor
    if tied and _HEAD not in named and _EMBEDDING in named:
        named[_HEAD] = named[_EMBEDDING]
    kind = {"safetensors": "hf-safetensors" if foreign else "ms-safetensors", "torch": "hf-torch", "ckpt": "ms-ckpt"}[form]
    about = {**metadata, "format": kind, "files": [file.name for file in files]}
    if manifest:
        about["manifest"] = manifest
    return CheckpointReader(path, named, about, config, strings or {}, tuple(dropped))


def _split_qkv(path: Path, name: str, tensor: LazyTensor) -> dict[str, LazyTensor]:
    """MindFormers 1.0's `attention.w.weight`, rows [q; k; v], as three tensors. Query rows equal columns."""
    if len(tensor.shape) != 2 or (kv := tensor.shape[0] - tensor.shape[1]) <= 0 or kv % 2:
        raise CheckpointError(f"{path}: {name}", f"has shape {list(tensor.shape)}, which is not [q; k; v] rows.")
    query = tensor.shape[1]
    bounds = {"wq": (0, query), "wk": (query, query + kv // 2), "wv": (query + kv // 2, query + kv)}
    return {re.sub(r"\.w\.weight$", f".{part}.weight", name): _rows(tensor, *span) for part, span in bounds.items()}


def _rows(tensor: LazyTensor, start: int, stop: int) -> LazyTensor:
    if isinstance(tensor, FileTensor):
        return tensor.rows(start, stop)
    return ComputedTensor((stop - start, *tensor.shape[1:]), tensor.dtype, lambda: tensor.read()[start:stop])


def _files(tensors: Mapping[str, FileTensor]) -> list[Path]:
    return sorted({segment.path for tensor in tensors.values() for segment in tensor.segments})
