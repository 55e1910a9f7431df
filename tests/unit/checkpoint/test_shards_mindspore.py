"""MindSpore's own tools on our shards and strategy files, tensor by tensor against ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shards_case import MODEL, STATE, STATE_TEXT, model_layout, whole_tensors

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.checkpoint.reshard import reshard
from mindformers_codellama.checkpoint.reshard_target import Target
from mindformers_codellama.checkpoint.reshard_write import ShardJob, ShardSource
from mindformers_codellama.checkpoint.safetensors_format import read_safetensors
from mindformers_codellama.checkpoint.shard_files import is_model_tensor
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.strategy_files import read_strategy

ms = pytest.importorskip("mindspore")

WHOLE = whole_tensors()
Degrees = tuple[int, int, int, bool]


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.ckpt"
    write_ckpt(path, {**WHOLE, **STATE, "codellama_train_state": STATE_TEXT}.items(), crc=True)
    return path


def layout_of(degrees: Degrees) -> ModelLayout:
    return model_layout(*degrees[:3], zero=degrees[3], vocabulary=degrees[3] or degrees[2] > 1)


def cut(source: Path, target: Path, layout: ModelLayout | None, form: str = "ckpt") -> Path:
    shard_source = ShardSource(path=source)
    job = ShardJob(source=shard_source, target=Target(model_layout=layout), destination=target, form=form)
    reshard(job, shard_source.open())
    return target


def merged(folder: Path) -> str:
    """MindSpore's merge of our strategy files, whether of one stage or several."""
    path = folder.with_name(folder.name + "_strategy") / "merged_ckpt_strategy.ckpt"
    ms.merge_pipeline_strategys(str(folder / "strategy"), str(path))
    return str(path)


def assert_same(ours: Path, theirs: Path) -> None:
    mine, made = scan_ckpt(ours).tensors, scan_ckpt(theirs).tensors
    for name in {*mine, *made}:
        assert name in mine, f"{name} is only in {theirs}"
        assert name in made, f"{name} is only in {ours}"
        assert (mine[name].dtype, mine[name].read().tobytes()) == (made[name].dtype, made[name].read().tobytes()), name
        assert mine[name].shape == made[name].shape or not is_model_tensor(name), name


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1, 2, 1, False), (1, 4, 1, False)),
        ((2, 2, 1, True), (1, 1, 1, False)),
        ((1, 4, 2, False), (2, 2, 1, True)),
        ((2, 2, 2, True), (4, 2, 1, True)),
        pytest.param((4, 4, 2, True), (2, 2, 2, False), marks=pytest.mark.cluster),
        pytest.param((4, 4, 2, False), (4, 2, 4, True), marks=pytest.mark.cluster),
        pytest.param((2, 1, 4, True), (1, 4, 2, False), marks=pytest.mark.cluster),
    ],
    ids=str,
)
def test_transform_checkpoints_gives_the_same_tensors(tmp_path: Path, whole_file: Path, source: Degrees, target: Degrees) -> None:
    shards = cut(whole_file, tmp_path / "shards", layout_of(source))
    ours = cut(shards, tmp_path / "ours", layout_of(target))
    before, after = merged(shards), merged(ours)
    ms.transform_checkpoints(str(shards), str(tmp_path / "theirs"), "checkpoint_", before, after)
    for rank in range(layout_of(target).layout.ranks):
        name = f"rank_{rank}/checkpoint_{rank}.ckpt"
        assert_same(ours / name, tmp_path / "theirs" / name)
    assert {path.name for path in (tmp_path / "theirs").iterdir()} == {path.name for path in ours.glob("rank_*")}


@pytest.mark.parametrize("source", [(1, 2, 2, False), pytest.param((4, 4, 2, False), marks=pytest.mark.cluster), (4, 4, 2, True)], ids=str)
def test_merging_by_mindspore_gives_the_whole(tmp_path: Path, whole_file: Path, source: Degrees) -> None:
    shards = cut(whole_file, tmp_path / "shards", layout_of(source))
    before = merged(shards)
    ms.transform_checkpoints(str(shards), str(tmp_path / "theirs"), "checkpoint_", before, None)
    needed = ms.rank_list_for_transform(0, before, None)
    files = {rank: str(shards / f"rank_{rank}/checkpoint_{rank}.ckpt") for rank in needed}
    ms.transform_checkpoint_by_rank(0, files, str(tmp_path / "by_rank.ckpt"), before, None)
    for made in (tmp_path / "theirs/rank_0/checkpoint_0.ckpt", tmp_path / "by_rank.ckpt"):
        assert_same(whole_file, made)


def test_a_whole_file_cut_by_mindspore_with_our_strategy_is_cut_alike(tmp_path: Path, whole_file: Path) -> None:
    layout = layout_of((2, 2, 2, True))
    ours = cut(whole_file, tmp_path / "ours", layout)
    plain = {**WHOLE, **STATE}  # MindSpore stumbles over the text of a file that one process saved
    write_ckpt(tmp_path / "plain/rank_0/whole.ckpt", plain.items())
    ms.transform_checkpoints(str(tmp_path / "plain"), str(tmp_path / "theirs"), "checkpoint_", None, merged(ours))
    for rank in range(layout.layout.ranks):
        name = f"rank_{rank}/checkpoint_{rank}.ckpt"
        assert_same(ours / name, tmp_path / "theirs" / name)


@pytest.mark.parametrize("source", [(2, 2, 2, False), (2, 2, 2, True)], ids=str)
def test_unified_safetensors_of_our_shards_are_the_whole(tmp_path: Path, whole_file: Path, source: Degrees) -> None:
    shards = cut(whole_file, tmp_path / "shards", layout_of(source), form="safetensors")
    ms.unified_safetensors(str(shards), merged(shards), str(tmp_path / "unified"))
    found = {name: tensor for file in (tmp_path / "unified").glob("*.safetensors") for name, tensor in read_safetensors(file)[0].items()}
    for name, values in WHOLE.items():
        assert found[name].read().tobytes() == values.tobytes(), name


def test_shards_that_mindspore_wrote_are_read_with_its_merged_strategy(tmp_path: Path, whole_file: Path) -> None:
    """Ours and theirs the other way round: what MindSpore cut, by names and descriptions that are stale, is whole again."""
    layout = layout_of((2, 4, 2, True))
    shards = cut(whole_file, tmp_path / "shards", layout_of((1, 2, 1, False)))
    wanted = cut(whole_file, tmp_path / "wanted", layout)
    strategy = merged(wanted)
    ms.transform_checkpoints(str(shards), str(tmp_path / "theirs"), "x", merged(shards), strategy)
    source = ShardSource(path=tmp_path / "theirs", strategy=Path(strategy), verify=True)
    reader = source.open()
    for name, values in WHOLE.items():
        assert reader.read(name).tobytes() == values.tobytes(), name
    assert reader.metadata["layout"] == "2x4x2"
    again = ShardJob(source=source, target=Target(strategy=read_strategy(wanted / "strategy")), destination=tmp_path / "again")
    reshard(again, reader)
    for rank in range(layout.layout.ranks):
        name = f"rank_{rank}/checkpoint_{rank}.ckpt"
        mine, first = scan_ckpt(tmp_path / "again" / name), scan_ckpt(wanted / name)
        assert {key: value.read().tobytes() for key, value in mine.tensors.items()} == {
            key: value.read().tobytes() for key, value in first.tensors.items()
        }


def test_mindspore_loads_a_shard(tmp_path: Path, whole_file: Path) -> None:
    layout = layout_of((1, 2, 1, False))
    shards = cut(whole_file, tmp_path / "shards", layout)
    loaded = ms.load_checkpoint(str(shards / "rank_1/checkpoint_1.ckpt"), crc_check=True)
    half = MODEL.hidden_size // 2
    name = "model.layers.0.attention.wq.weight"
    np.testing.assert_array_equal(loaded[name].asnumpy(), WHOLE[name][half:])
