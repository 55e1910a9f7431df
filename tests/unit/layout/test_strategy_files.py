"""Strategy files: what MindSpore's own protobuf and transforms make of ours, and what we make of theirs."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.boxes import whole
from mindformers_codellama.layout.cuts import MOMENTS, ModelLayout, OptimizerCut
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.layout.strategy import TensorLayout, tensor_layout
from mindformers_codellama.layout.strategy_files import FILE_NAME, read_strategy, strategy_bytes, write_strategy

MODEL = ModelConfig(
    vocab_size=48, hidden_size=32, num_layers=4, num_heads=8, num_kv_heads=4, intermediate_size=64, seq_length=16, max_position=16
)


def model_layout(data: int, model: int, stages: int, *, zero: bool, vocabulary: bool = False) -> ModelLayout:
    layout = Layout(data_parallel=data, model_parallel=model, pipeline_stage=stages)
    return ModelLayout(config=MODEL, layout=layout, vocabulary_cut=vocabulary, optimizer_cut=OptimizerCut(threshold=0) if zero else None)


LAYOUTS = [
    model_layout(*degrees, zero=zero, vocabulary=vocabulary)
    for degrees in itertools.product((1, 2, 4), (1, 2, 4), (1, 2))
    for zero, vocabulary in ((False, False), (True, True))
]


@pytest.mark.parametrize("ours", LAYOUTS, ids=lambda ours: f"{ours.layout}{'z' if ours.optimizer_cut else ''}")
def test_a_strategy_read_back_gives_the_boxes_of_the_table(tmp_path: Path, ours: ModelLayout) -> None:
    for rank in range(ours.layout.ranks):
        assert write_strategy(tmp_path, ours, rank) == tmp_path / FILE_NAME.format(rank=rank)
    read = read_strategy(tmp_path)
    assert (read.ranks, read.stages, read.layout) == (ours.layout.ranks, ours.layout.pipeline_stage, ours.layout)
    for prefix, (name, shape), rank in itertools.product(("", *MOMENTS), ours.shapes.items(), range(ours.layout.ranks)):
        assert read.box(prefix + name, shape, rank) == ours.box(prefix + name, rank), (prefix + name, rank)
        box = ours.box(prefix + name, rank)
        assert box is None or tensor_layout(ours, prefix + name).whole_shape(box.shape) == shape


def test_the_bytes_are_what_mindspores_protobuf_writes() -> None:
    pytest.importorskip("mindspore")
    from mindspore.train.node_strategy_pb2 import ParallelStrategyMap

    for ours in LAYOUTS:
        for stage in range(ours.layout.pipeline_stage):
            message = ParallelStrategyMap()
            written = strategy_bytes(ours, stage)
            message.ParseFromString(written)
            assert message.SerializeToString() == written
            assert message.IsInitialized()
            assert message.parallel_strategy_item[0].parallel_strategys.stage == stage == message.current_stage
    column = next(item for item in message.parallel_layout_item if item.param_name.startswith("adam_m") and "wq" in item.param_name)
    assert list(column.parallel_layouts.dev_matrix[0].dim) == [4, 4]
    assert list(column.parallel_layouts.tensor_map[0].dim) == [0, -1]
    assert (column.parallel_layouts.opt_weight_shard_step, column.parallel_layouts.opt_weight_shard_size) == (4, 4)


@pytest.mark.parametrize("stages", [1, 2])
def test_a_file_merged_by_mindspore_says_the_same(tmp_path: Path, stages: int) -> None:
    mindspore = pytest.importorskip("mindspore")
    ours = model_layout(2, 2, stages, zero=True)
    for rank in range(ours.layout.ranks):
        write_strategy(tmp_path / "strategy", ours, rank)
    mindspore.merge_pipeline_strategys(str(tmp_path / "strategy"), str(tmp_path / "strategy/merged_ckpt_strategy.ckpt"))
    merged = read_strategy(tmp_path / "strategy/merged_ckpt_strategy.ckpt")
    assert merged.tensors == read_strategy(tmp_path / "strategy").tensors  # where the merged file is left aside
    searched = mindspore.build_searched_strategy(str(tmp_path / "strategy" / FILE_NAME.format(rank=0)))
    assert set(searched) == {prefix + name for prefix in ("", *MOMENTS) for name in ours.names(0)}


@st.composite
def foreign_layouts(draw: st.DrawFn) -> tuple[TensorLayout, tuple[int, ...]]:
    """Device matrices of up to three axes, each cutting at most one dim, optimizer parts as MindSpore allows them."""
    matrix = tuple(draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=3)))
    dims = draw(st.integers(1, 2))
    axes = draw(st.permutations([*range(len(matrix)), *[-1] * dims]))[:dims]
    tensor_map = tuple(() if axis < 0 else (axis,) for axis in axes)
    used = {len(matrix) - 1 - axis for axis in axes if axis >= 0}
    copies = [place for place, degree in enumerate(matrix) if place not in used and degree > 1]
    if not copies or draw(st.booleans()):
        return TensorLayout(matrix, tensor_map), (32,) * dims
    room = math.prod(matrix[place] for place in copies)
    size = draw(st.sampled_from([size for size in (2, 4, 8, 16, 32) if size <= room]))
    step = math.prod(matrix[copies[-1] + 1 :])
    return TensorLayout(matrix, tensor_map, step, size), (128,) + (32,) * (dims - 1)


@settings(deadline=None, max_examples=150)
@given(foreign_layouts())
def test_boxes_are_those_of_mindspores_transform(case: tuple[TensorLayout, tuple[int, ...]]) -> None:
    """MindSpore joins the parts that our reading of the layout cuts; any other reading gives another tensor."""
    pytest.importorskip("mindspore")
    from mindspore.parallel._parallel_serialization import _transform_parallel_checkpoint

    layout, shape = case
    values = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    parts = {rank: values[layout.box(shape, rank).slices] for rank in range(layout.ranks)}
    assert all(layout.whole_shape(part.shape) == shape for part in parts.values())
    flat_map = [axes[0] if axes else -1 for axes in layout.tensor_map]
    described = {"w": [list(layout.dev_matrix), flat_map, [], 0, layout.shard_step, layout.shard_size, [0]]}
    (made,) = _transform_parallel_checkpoint(
        0, {"w": parts}, {"w": dict.fromkeys(parts, (True, False))}, described, None, {"w": dict.fromkeys(parts, "Float32")}
    )
    np.testing.assert_array_equal(made["data"].asnumpy(), values)


def test_a_dim_cut_by_two_axes_the_first_outermost() -> None:
    layout = TensorLayout((2, 2), ((1, 0), ()))
    assert [layout.box((8, 3), rank).start[0] for rank in range(4)] == [0, 2, 4, 6]
    assert [TensorLayout((2, 2), ((0, 1), ())).box((8, 3), rank).start[0] for rank in range(4)] == [0, 4, 2, 6]


def test_every_copy_shares_with_minus_one() -> None:
    layout = TensorLayout((2, 2), ((), ()), 1, -1)
    assert [layout.box((8, 3), rank) for rank in range(4)] == [whole((8, 3)).part(0, rank, 4) for rank in range(4)]


def test_the_json_form_says_the_same(tmp_path: Path) -> None:
    ours = model_layout(2, 2, 1, zero=True)
    write_strategy(tmp_path / "a.ckpt", ours, 0)
    read = read_strategy(tmp_path / "a.ckpt")
    items = {
        name: {
            "dev_matrix": list(tensor.dev_matrix),
            "tensor_map": [axes[0] if axes else -1 for axes in tensor.tensor_map],
            "field": 0,
            "opt_weight_shard_step": tensor.shard_step,
            "opt_weight_shard_size": tensor.shard_size,
        }
        for name, tensor in read.tensors.items()
    }
    text = {"current_stage": 0, "parallel_strategy_item": {"a": {"stage": 0}}, "parallel_layout_item": items}
    (tmp_path / "a.json").write_text(json.dumps(text))
    assert read_strategy(tmp_path / "a.json").tensors == read.tensors


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(text: str, source: Path) -> None:
        with pytest.raises(CheckpointError, match=text):
            read_strategy(source)

    refused("does not exist", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    refused("holds no strategy file", tmp_path / "empty")
    for name, content in (("a.ckpt", b"\x00" * 40), ("b.ckpt", b""), ("c.ckpt", b"weights" * 9), ("d.json", b"{}")):
        (tmp_path / name).write_bytes(content)
        refused("is not a MindSpore strategy file", tmp_path / name)
    ours = model_layout(2, 2, 2, zero=False)
    whole_file = strategy_bytes(ours, 0)
    (tmp_path / "cut.ckpt").write_bytes(whole_file[: len(whole_file) // 2])
    refused("is not a MindSpore strategy file", tmp_path / "cut.ckpt")
    write_strategy(tmp_path / "lost", ours, 4)  # stage 1 alone
    refused("has no strategy of stage 0", tmp_path / "lost")
    write_strategy(tmp_path / "mixed", ours, 0)
    write_strategy(tmp_path / "mixed", model_layout(4, 1, 2, zero=False), 1)
    refused("says something else than ckpt_strategy_rank_0.ckpt about stage 0", tmp_path / "mixed")
    write_strategy(tmp_path / "sizes", ours, 0)
    write_strategy(tmp_path / "sizes", model_layout(4, 2, 2, zero=False), 8)
    refused("device matrices of different sizes", tmp_path / "sizes")


def test_a_tensor_that_is_not_there_or_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    read = read_strategy(write_strategy(tmp_path, model_layout(1, 4, 1, zero=False), 0))
    with pytest.raises(CheckpointError, match=r"other\.weight: is not in this strategy"):
        read.box("other.weight", (4, 4), 0)
    with pytest.raises(CheckpointError, match=r"cut into \[4, 1\] parts"):
        read.box("model.layers.0.attention.wq.weight", (6, 4), 0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "strategy").write_text("a file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_strategy(tmp_path / "strategy", model_layout(1, 1, 1, zero=False), 0)
