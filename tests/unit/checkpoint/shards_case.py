"""A tiny model and its shards, written here and not by the code under test, for tests of sharded checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.shard_info import SHARD_KEY, shard_info, shard_text, text_tensor
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.layout.cuts import MOMENTS, ModelLayout, OptimizerCut
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.layout.ranks import Layout

MODEL = ModelConfig(
    vocab_size=64, hidden_size=32, num_layers=4, num_heads=8, num_kv_heads=4, intermediate_size=64, seq_length=16, max_position=16
)
CUT_DIMS = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0}
STATE = {"global_step": np.array([7], np.int32), "scale_sense": np.float32(512), "epoch_num": np.int64(2), "step_num": np.int64(7)}
STATE_TEXT = '{"state": {"step": 7}, "random": "\u00e9"}'


def model_layout(data: int, model: int, stages: int, *, zero: bool = False, vocabulary: bool = False) -> ModelLayout:
    layout = Layout(data_parallel=data, model_parallel=model, pipeline_stage=stages)
    cut = OptimizerCut(threshold=0) if zero else None
    return ModelLayout(config=MODEL, layout=layout, vocabulary_cut=vocabulary, optimizer_cut=cut)


def whole_tensors(*, moments: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(MODEL)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for prefix in MOMENTS if moments else ():
        tensors |= {prefix + name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return tensors


def expected_part(name: str, values: np.ndarray, layout: ModelLayout, rank: int) -> np.ndarray | None:
    """What a rank holds, by numpy alone; None when it is on another stage. Every dim of the tiny model divides."""
    degrees = layout.layout
    stage, rest = divmod(rank, degrees.data_parallel * degrees.model_parallel)
    data, model = divmod(rest, degrees.model_parallel)
    weight = name.removeprefix("adam_m.").removeprefix("adam_v.")
    if "layers." in weight:
        layer = int(weight.split("layers.")[1].split(".")[0])
        mine = min(layer // max((MODEL.num_layers + 1) // degrees.pipeline_stage, 1), degrees.pipeline_stage - 1) == stage
    else:
        mine = stage == (0 if "tok_embeddings" in weight else degrees.pipeline_stage - 1)
    if not mine:
        return None
    dim = CUT_DIMS.get(weight.split(".")[-2])
    if dim is None and layout.vocabulary_cut and ("tok_embeddings" in weight or "lm_head" in weight):
        dim = 0
    if dim is not None:
        values = np.split(values, degrees.model_parallel, dim)[model]
    if layout.optimizer_cut and name != weight:
        values = np.split(values, degrees.data_parallel, 0)[data]
    return np.ascontiguousarray(values)


def write_shards(
    folder: Path, layout: ModelLayout, tensors: Mapping[str, np.ndarray], *, name: str = "net_rank_{rank}-2_7", **how: Any
) -> dict[int, Path]:
    """`rank_N/<name>.ckpt` for every rank: the parts, the same state everywhere; `described`, `state`, `save` say what else."""
    files = {}
    state = {**STATE, **how.get("state", {})}
    for rank in range(layout.layout.ranks):
        parts = {key: part for key, value in tensors.items() if (part := expected_part(key, value, layout, rank)) is not None}
        items: dict[str, Any] = {**parts, **state}
        if how.get("described", True):
            items["codellama_train_state"] = text_tensor(STATE_TEXT.replace("7", str(int(state["step_num"]))))
            moments = any(key.startswith("adam_m.") for key in tensors)
            items[SHARD_KEY] = text_tensor(shard_text(shard_info(layout, rank, moments=moments, save=how.get("save", ""))))
        files[rank] = folder / f"rank_{rank}" / f"{name.format(rank=rank)}.ckpt"
        write_ckpt(files[rank], items.items(), crc=True, force=True)
    return files
