"""Output directories: Hugging Face's layout, and ours (same files, MindFormers' names, a manifest).

Hugging Face's files are laid out byte for byte as transformers' `save_pretrained` lays them out: tensors are dealt to
files in the order of `saved_place`, and within a file the safetensors package sorts them by type, widest first, and name.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindformers_codellama.checkpoint.files import FileRecord, staged_directory
from mindformers_codellama.checkpoint.hf_config import generation_config, hf_config
from mindformers_codellama.checkpoint.safetensors_format import write_safetensors
from mindformers_codellama.checkpoint.tensors import LazyTensor, tensor_bytes
from mindformers_codellama.checkpoint.weight_map import saved_place, to_theirs
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError

MAX_SHARD_BYTES = 5_000_000_000
"""Largest weight file, as transformers' `save_pretrained` cuts them (5 GB); a larger tensor gets a file of its own."""

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""Copied beside the weights when the source has them."""

HF_FILES = ("config.json", "generation_config.json")
"""What Hugging Face says about a model beside its weights."""

_WIDEST_FIRST = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Companions:
    """What goes beside the weights."""

    config: ModelConfig | None
    """Configuration of the model."""
    folder: Path | None
    """Directory whose tokenizer files are taken over."""
    hf_files: Mapping[str, str] = field(default_factory=dict)
    """Text of the source's own config.json and generation_config.json, to be taken over."""
    tokenizer: Path | None = None
    """A tokenizer file or directory that goes before `folder`'s."""


def write_hf(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    beside: Companions,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    force: bool = False,
    on_bytes: Callable[[int], object] | None = None,
) -> list[FileRecord]:
    """Write a directory that `transformers.AutoModelForCausalLM.from_pretrained` loads.

    Args:
        path: the directory.
        tensors: weights by our names.
        beside: configuration (needed) and tokenizer.
        max_shard_bytes: cut the weights into files of at most this size.
        force: replace the weights of an existing directory.
        on_bytes: called with the number of tensor bytes just written.

    Returns:
        The weight files.

    Raises:
        CheckpointError: a tensor Hugging Face's Llama does not have; as `staged_directory`.
    """
    assert beside.config is not None, "a Hugging Face directory needs the configuration"
    named: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        theirs = to_theirs(name)
        if theirs is None:
            raise CheckpointError(name, "has no place in a Hugging Face Llama.")
        named[theirs] = tensor
    named = {name: named[name] for name in sorted(named, key=saved_place)}
    dtype = _main_dtype(tensors)
    with staged_directory(path, force=force, replaces=("model*.safetensors", "model.safetensors.index.json")) as stage:
        records = _write_shards(stage, "model", named, {"format": "pt"}, max_shard_bytes, on_bytes)
        (stage / "config.json").write_text(_config_text(beside, dtype), encoding="utf-8")
        text = beside.hf_files.get("generation_config.json") or _json_text(generation_config(beside.config))
        (stage / "generation_config.json").write_text(text, encoding="utf-8")
        copy_tokenizer(stage, beside)
    return records


def write_ours(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    beside: Companions,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    force: bool = False,
    on_bytes: Callable[[int], object] | None = None,
) -> list[FileRecord]:
    """Write a directory of safetensors with MindFormers' names; arguments as `write_hf`. The manifest is the caller's."""
    with staged_directory(path, force=force, replaces=("weights*.safetensors", "weights.safetensors.index.json")) as stage:
        records = _write_shards(stage, "weights", tensors, {"format": "ms"}, max_shard_bytes, on_bytes)
        copy_tokenizer(stage, beside)
    return records


def copy_tokenizer(folder: Path, beside: Companions) -> None:
    """Copy tokenizer files from the chosen tokenizer, else from the source directory.

    Raises:
        CheckpointError: a chosen tokenizer that is not there.
    """
    chosen = beside.tokenizer
    if chosen is not None and not chosen.exists():
        raise CheckpointError(chosen, "does not exist.", fix="--tokenizer takes a tokenizer.model or a directory that has one.")
    if chosen is not None and chosen.is_file():
        shutil.copyfile(chosen, folder / ("tokenizer.model" if chosen.suffix == ".model" else chosen.name))
        return
    source = chosen or beside.folder
    for name in TOKENIZER_FILES:
        if source is not None and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def split_shards(tensors: Mapping[str, LazyTensor], max_shard_bytes: int) -> Iterator[dict[str, LazyTensor]]:
    """Tensors in order, in groups of at most `max_shard_bytes`; a larger tensor is a group of its own.

    Source: huggingface_hub serialization/_base.py, `split_state_dict_into_shards_factory`.
    """
    group: dict[str, LazyTensor] = {}
    size = 0
    for name, tensor in tensors.items():
        more = tensor_bytes(tensor)
        if more > max_shard_bytes:
            yield {name: tensor}
            continue
        if size + more > max_shard_bytes:
            yield group
            group, size = {}, 0
        group[name] = tensor
        size += more
    if group:
        yield group


def _write_shards(
    stage: Path,
    stem: str,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, str],
    max_shard_bytes: int,
    on_bytes: Callable[[int], object] | None,
) -> list[FileRecord]:
    shards = [_in_file_order(shard) for shard in split_shards(tensors, max_shard_bytes)]
    if len(shards) == 1:
        return [write_safetensors(stage / f"{stem}.safetensors", shards[0], metadata=metadata, on_bytes=on_bytes)]
    records: list[FileRecord] = []
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        records.append(write_safetensors(stage / name, shard, metadata=metadata, on_bytes=on_bytes))
        weight_map |= dict.fromkeys(shard, name)
    about = {
        "total_parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "total_size": sum(tensor_bytes(tensor) for tensor in tensors.values()),
    }
    index = {"metadata": about, "weight_map": dict(sorted(weight_map.items()))}
    (stage / f"{stem}.safetensors.index.json").write_text(_json_text(index), encoding="utf-8")
    return records


def _in_file_order(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """As the safetensors package writes them."""
    return dict(sorted(tensors.items(), key=lambda item: (_WIDEST_FIRST.index(item[1].dtype), item[0])))


def _config_text(beside: Companions, dtype: str) -> str:
    """The source's own config.json, to the letter unless the element type is another; else one made from ours."""
    assert beside.config is not None
    text = beside.hf_files.get("config.json")
    if text is None:
        return _json_text(hf_config(beside.config, dtype))
    values = dict(json.loads(text))
    key = "dtype" if "dtype" in values else "torch_dtype"
    return text if values.get(key) == dtype else _json_text(values | {key: dtype})


def hf_files(folder: Path) -> dict[str, str]:
    """Text of `HF_FILES` in a directory, of those that are there."""
    return {name: (folder / name).read_text(encoding="utf-8") for name in HF_FILES if (folder / name).is_file()}


def _main_dtype(tensors: Mapping[str, LazyTensor]) -> str:
    """Element type of most bytes."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor_bytes(tensor)
    return max(sizes, key=lambda name: sizes[name])


def _json_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
