"""Meta's own checkpoints: `params.json` and `consolidated.NN.pth`, one file per model-parallel part.

Two things differ from Hugging Face. Matrices are cut over the parts (`Rule.part_axis`; `ParallelEmbedding`
cuts the width, column-parallel layers the rows, row-parallel ones the columns). And Meta rotates neighbouring
pairs of a head's rows, (0, 1), (2, 3), ..., where Hugging Face and MindFormers rotate row j with row j + H/2:
the rows of wq and wk are reordered from pairs to halves, which leaves every attention score as it was.
Source: meta-llama/codellama llama/model.py; transformers convert_llama_weights_to_hf.py, `permute`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_codellama.checkpoint.dtypes import numpy_dtype
from mindformers_codellama.checkpoint.tensors import ComputedTensor, LazyTensor
from mindformers_codellama.checkpoint.torch_format import read_torch
from mindformers_codellama.checkpoint.weight_map import META, Rule, is_dropped, match
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, raise_all

MAX_POSITIONS = 16384
"""Code Llama's trained context; params.json does not say it. Llama 2's (theta 1e4) is 4096."""


def pairs_to_halves(weight_RD: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from (pair, 2) order to (2, pair) order.

    Args:
        weight_RD: `(heads * H, D)`, or `(heads * H,)`, any type.
        heads: number of heads the rows belong to.

    Returns:
        A new array of the same shape and type; row `h*H + 2j + p` has become row `h*H + p*H/2 + j`.
    """
    rows = weight_RD.shape[0]
    split = weight_RD.reshape(heads, rows // heads // 2, 2, -1)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(weight_RD.shape)


def read_meta(folder: Path) -> tuple[dict[str, LazyTensor], ModelConfig, tuple[str, ...]]:
    """Tensors of a Meta directory by our names, whole and in our rotary order.

    Returns:
        The tensors (names no rule knows stay as they are), the configuration, and the names left out on purpose.

    Raises:
        CheckpointError: params.json or parts missing or damaged; parts that do not fit together.
    """
    params = _read_params(folder / "params.json")
    files = part_files(folder)
    parts = [read_torch(file) for file in files]
    raise_all(_part_problems(files, parts))
    tensors: dict[str, LazyTensor] = {}
    dropped: list[str] = []
    for name in parts[0]:
        found = match(name, META, theirs=True)
        if is_dropped(name):
            dropped.append(name)
        elif found is None:
            tensors[name] = parts[0][name]
        else:
            rule, layer = found
            heads = {"N": params["n_heads"], "K": params["n_kv_heads"]}.get(rule.rotary_heads, 0)
            axis = _axis(rule, parts, name, params)
            tensors[rule.ours.format(i=layer)] = _whole(f"{folder}: {name}", [part[name] for part in parts], axis, heads)
    return tensors, _model_config(folder, params, tensors), tuple(dropped)


def part_files(folder: Path) -> list[Path]:
    """The parts in order.

    Raises:
        CheckpointError: none, or a gap in their numbers.
    """
    files = sorted(folder.glob("consolidated.*.pth"))
    numbers = [file.name.split(".")[1] for file in files]
    if not files or numbers != [f"{n:02d}" for n in range(len(files))]:
        raise CheckpointError(folder, f"must hold consolidated.00.pth and so on without a gap, has {numbers or 'none'}.")
    return files


def _read_params(path: Path) -> dict[str, Any]:
    try:
        params = json.loads(path.read_text(encoding="utf-8"))
        params["n_kv_heads"] = params.get("n_kv_heads") or params["n_heads"]
        whole = all(isinstance(params[key], int) and params[key] > 0 for key in ("dim", "n_layers", "n_heads", "n_kv_heads"))
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}.", fix="copy params.json beside the .pth files.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f"is not Meta's params.json ({error}).") from error
    if not whole:
        raise CheckpointError(path, "dim, n_layers, n_heads and n_kv_heads must be whole numbers above 0.")
    return dict(params)


def _part_problems(files: Sequence[Path], parts: Sequence[dict[str, LazyTensor]]) -> list[CodeLlamaError]:
    problems: list[CodeLlamaError] = []
    for file, part in zip(files[1:], parts[1:], strict=True):
        for name in parts[0].keys() ^ part.keys():
            problems.append(CheckpointError(f"{file}: {name}", "is in some parts only; the parts are not of one model."))
        for name in parts[0].keys() & part.keys():
            first, here = parts[0][name], part[name]
            if (first.shape, first.dtype) != (here.shape, here.dtype):
                problem = f"is {here.dtype} {list(here.shape)}, in {files[0].name} {first.dtype} {list(first.shape)}."
                problems.append(CheckpointError(f"{file}: {name}", problem))
    return problems


def _axis(rule: Rule, parts: Sequence[dict[str, LazyTensor]], name: str, params: dict[str, Any]) -> int | None:
    """Where the parts of a tensor join; later releases cut the embedding by vocabulary instead of width."""
    if len(parts) == 1:
        return None
    if rule.part_axis == 1 and rule.dims == "V D" and parts[0][name].shape[1] == params["dim"]:
        return 0
    return rule.part_axis


def _whole(where: str, parts: Sequence[LazyTensor], axis: int | None, heads: int) -> LazyTensor:
    """One tensor of its parts: joined along `axis` (None: the first holds it all), then pairs to halves."""
    first = parts[0]
    if axis is None and not heads:
        return first
    shape = list(first.shape)
    if axis is not None:
        shape[axis] *= len(parts)
    if heads and shape[0] % (2 * heads):
        raise CheckpointError(where, f"has {shape[0]} rows, which {heads} heads do not divide into pairs.")

    def make() -> np.ndarray:
        if axis is None:
            whole = first.read()
        else:
            whole = np.empty(shape, numpy_dtype(first.dtype))
            width = first.shape[axis]
            for number, part in enumerate(parts):
                where_to = slice(number * width, (number + 1) * width)
                whole[(slice(None), where_to) if axis else where_to] = part.read()
        return pairs_to_halves(whole, heads) if heads else whole

    return ComputedTensor(tuple(shape), first.dtype, make)


def _model_config(folder: Path, params: dict[str, Any], tensors: dict[str, LazyTensor]) -> ModelConfig:
    """Sizes that params.json leaves out (vocabulary -1, rounded width) come from the weights."""
    try:
        vocab_size = tensors["model.tok_embeddings.embedding_weight"].shape[0]
        intermediate_size = tensors["model.layers.0.feed_forward.w1.weight"].shape[0]
    except (KeyError, IndexError):
        raise CheckpointError(folder, "is not a Llama checkpoint: no embedding or feed-forward weights.") from None
    theta = float(params.get("rope_theta", 1e4))
    positions = MAX_POSITIONS if theta > 1e4 else 4096
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=params["dim"],
        num_layers=params["n_layers"],
        num_heads=params["n_heads"],
        num_kv_heads=params["n_kv_heads"],
        intermediate_size=intermediate_size,
        seq_length=positions,
        max_position=positions,
        rms_norm_eps=float(params.get("norm_eps", 1e-5)),
        rope_theta=theta,
    )
