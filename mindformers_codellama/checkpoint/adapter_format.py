"""Adapters as PEFT keeps them: a directory with `adapter_config.json` and `adapter_model.safetensors`, read and written without torch.

A tensor's name is `base_model.model.<Hugging Face's module>.lora_A.weight`; A is `(R, I)` and B `(O, R)`. What belongs to a linear
layer W `(O, I)` is added to it as `scale B A`. Source: peft docs, developer guide "Checkpoint format".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mindformers_codellama.checkpoint.adapter_config import (
    CONFIG_FILE,
    AdapterConfig,
    adapter_config_text,
    first_of,
    read_adapter_config,
)
from mindformers_codellama.checkpoint.dtypes import WEIGHT_DTYPES, dtype_name
from mindformers_codellama.checkpoint.files import FileRecord, staged_directory
from mindformers_codellama.checkpoint.safetensors_format import read_safetensors, write_safetensors
from mindformers_codellama.checkpoint.tensors import ComputedTensor, LazyTensor
from mindformers_codellama.checkpoint.torch_format import read_torch
from mindformers_codellama.checkpoint.weight_map import to_ours, to_theirs
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, raise_all

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "adapter_model.safetensors"
TORCH_FILE = "adapter_model.bin"
PREFIX = "base_model.model."
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.(?:lora_(?P<side>[AB])|base_layer)\.weight")


@dataclass(frozen=True)
class LowRank:
    """What is added to one weight: `scale B A`, float32."""

    a: np.ndarray
    """`(R, I)`."""
    b: np.ndarray
    """`(O, R)`."""
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight."""
        return self.b.shape[0], self.a.shape[1]

    def product(self) -> np.ndarray:
        """float32 `(O, I)`, ready to be added."""
        product: np.ndarray = (self.b * np.float32(self.scale)) @ self.a
        return product


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory; it takes R (I + O) numbers per weight."""

    path: Path
    config: AdapterConfig
    weights: Mapping[str, LowRank]
    """By our name of the weight, `model.layers.0.attention.wq.weight`."""


def read_adapter(path: str | Path) -> Adapter:
    """Read a directory that PEFT, MindFormers or we wrote.

    Raises:
        CheckpointError: no adapter; damaged; not of a Llama; A and B that do not fit each other or the ranks of the configuration, or
            are not finite; or it asks for what is not computed here (`adapter_config`). All findings at once.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        problem = "does not exist." if not path.exists() else "is no directory."
        raise CheckpointError(path, problem, fix=f"give the directory that has {CONFIG_FILE} and {WEIGHTS_FILE}.")
    config = read_adapter_config(path / CONFIG_FILE)
    tensors, file = _tensors(path)
    found: dict[str, dict[str, LazyTensor]] = {}
    problems: list[CodeLlamaError] = []
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        ours = to_ours(f"{match['module']}.weight") if match else None
        if match is None or ours is None or ours.endswith(("norm.weight", "norm_out.weight", "embedding_weight")):
            fix = "an adapter of attention, feed-forward and head of a Llama is needed."
            problems.append(CheckpointError(f"{file}: {name}", "belongs to no linear layer of a Llama.", fix=fix))
        elif match["side"] is None:  # PEFT saves the head as it is with an adapter for the head
            logger.info("%s: left out %s, the model's own weight", file, name)
        elif tensor.dtype not in WEIGHT_DTYPES:
            problems.append(CheckpointError(f"{file}: {name}", f"is {tensor.dtype}, not a floating type."))
        else:
            found.setdefault(ours, {})[match["side"]] = tensor
    raise_all(problems)
    if not found:
        raise CheckpointError(file, "holds no adapter: it has no tensor.")
    raise_all(error for name, sides in found.items() for error in _pair_findings(file, config, name, sides))
    weights = {name: LowRank(_float32(sides["A"]), _float32(sides["B"]), config.scale_of(_module(name))) for name, sides in found.items()}
    raise_all(_not_finite(file, name) for name, pair in weights.items() if not (np.isfinite(pair.a).all() and np.isfinite(pair.b).all()))
    return Adapter(path, config, weights)


def write_adapter(path: Path, config: AdapterConfig, weights: Mapping[str, LowRank], *, force: bool = False) -> FileRecord:
    """Write a directory that `peft.PeftModel.from_pretrained` reads; it appears whole or not at all.

    Args:
        path: the directory.
        config: rank and alpha; target modules are filled in from the weights.
        weights: by our name; their `scale` must be what the configuration says.
        force: replace the adapter of a directory that is there.

    Raises:
        CheckpointError: `path` is taken; the disk is full or not writable.
    """
    config = replace(config, target_modules=tuple(sorted({_module(name).rsplit(".", 1)[-1] for name in weights})))
    tensors: dict[str, LazyTensor] = {}
    for name, pair in weights.items():
        assert pair.scale == config.scale_of(_module(name)), (name, pair.scale)
        for side, values in (("A", pair.a), ("B", pair.b)):
            tensors[f"{PREFIX}{_module(name)}.lora_{side}.weight"] = _in_memory(values)
    with staged_directory(path, force=force) as stage:
        record = write_safetensors(stage / WEIGHTS_FILE, dict(sorted(tensors.items())), metadata={"format": "pt"})
        (stage / CONFIG_FILE).write_text(adapter_config_text(config), encoding="utf-8")
    return record


def require_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an adapter of another model.

    Args:
        adapter: what is to be added.
        shapes: of the model's weights, by our names.

    Raises:
        CheckpointError: modules the model has not, or shapes of other sizes; all at once.
    """
    missing = [_module(name) for name in adapter.weights if name not in shapes]
    if missing:
        problem = f"is an adapter for {len(missing)} modules this model has not: {first_of(missing)}."
        raise CheckpointError(adapter.path, problem, fix=_base_fix(adapter))
    wrong = [
        f"{_module(name)} is {list(pair.shape)} in the adapter and {list(shapes[name])} in the model"
        for name, pair in adapter.weights.items()
        if pair.shape != shapes[name]
    ]
    if wrong:
        problem = f"is an adapter of another model: {'; '.join(wrong[:2])}{f'; and {len(wrong) - 2} more' if len(wrong) > 2 else ''}."
        raise CheckpointError(adapter.path, problem, fix=_base_fix(adapter))


def _base_fix(adapter: Adapter) -> str:
    base = adapter.config.base_model
    return f"use it with the model it was trained on{f' ({base})' if base else ''}."


def _tensors(folder: Path) -> tuple[Mapping[str, LazyTensor], Path]:
    """Tensors of the directory and their file."""
    file = folder / WEIGHTS_FILE
    if file.is_file():
        return read_safetensors(file)[0], file
    if (folder / TORCH_FILE).is_file():
        return read_torch(folder / TORCH_FILE), folder / TORCH_FILE
    raise CheckpointError(file, "is missing.", fix=f"give the directory that has {CONFIG_FILE} and {WEIGHTS_FILE}.")


def _pair_findings(file: Path, config: AdapterConfig, name: str, sides: Mapping[str, LazyTensor]) -> list[CodeLlamaError]:
    module = _module(name)
    for side in "AB":
        if side not in sides:
            return [CheckpointError(f"{file}: {module}", f"has no lora_{side}.", fix="write the adapter again.")]
    a_shape, b_shape, rank = sides["A"].shape, sides["B"].shape, config.rank_of(module)
    if len(a_shape) != 2 or len(b_shape) != 2 or a_shape[0] != rank or b_shape[1] != rank:
        problem = f"has A {list(a_shape)} and B {list(b_shape)}, but by {CONFIG_FILE} A is [{rank}, I] and B [O, {rank}]."
        return [CheckpointError(f"{file}: {module}", problem, fix="give the two files that were written together.")]
    return []


def _not_finite(file: Path, name: str) -> CheckpointError:
    problem = "holds NaN or infinite values, which would spoil every answer."
    return CheckpointError(f"{file}: {_module(name)}", problem, fix="take an earlier adapter, or train with a smaller learning rate.")


def _module(weight: str) -> str:
    """Hugging Face's module of our weight."""
    theirs = to_theirs(weight)
    assert theirs is not None, weight
    return theirs.removesuffix(".weight")


def _float32(tensor: LazyTensor) -> np.ndarray:
    values: np.ndarray = tensor.read().astype(np.float32)
    return values


def _in_memory(values: np.ndarray) -> ComputedTensor:
    return ComputedTensor(values.shape, dtype_name(values.dtype), lambda: values)
