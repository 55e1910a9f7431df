"""Shards as whole tensors: joined, in any box, and every way in which they can be wrong."""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from shards_case import MODEL, STATE_TEXT, expected_part, model_layout, whole_tensors, write_shards

from mindformers_codellama.checkpoint.boxes_io import read_box
from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.open import CheckpointReader, open_checkpoint
from mindformers_codellama.checkpoint.sharded import JoinedTensor, open_sharded, open_shards
from mindformers_codellama.checkpoint.source import open_source
from mindformers_codellama.errors import CheckpointError, CodeLlamaError
from mindformers_codellama.layout.boxes import Box
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.strategy_files import write_strategy

WHOLE = whole_tensors()
LAYOUTS = [(1, 1, 1, False), (2, 1, 1, True), (1, 4, 1, False), (2, 2, 2, False), (2, 2, 2, True), (4, 2, 4, True)]


def strategies(folder: Path, layout: ModelLayout) -> Path:
    for rank in range(layout.layout.ranks):
        write_strategy(folder, layout, rank)
    return folder


def assert_whole(reader: CheckpointReader) -> None:
    for name, values in WHOLE.items():
        assert reader.read(name).tobytes() == values.tobytes(), name
        assert b"".join(piece.tobytes() for piece in reader.tensor(name).chunks()) == values.tobytes(), name
    assert reader.read("step_num") == 7


@pytest.mark.parametrize(("data", "model", "stages", "zero"), LAYOUTS)
@pytest.mark.parametrize("described", [True, False])
def test_shards_of_any_layout_are_whole_again(tmp_path: Path, data: int, model: int, stages: int, zero: bool, described: bool) -> None:
    layout = model_layout(data, model, stages, zero=zero, vocabulary=zero)
    write_shards(tmp_path / "shards", layout, WHOLE, described=described)
    strategy = None if described else strategies(tmp_path / "strategy", layout)
    reader = open_sharded(tmp_path / "shards", strategy=strategy, verify=True)
    assert_whole(reader)
    assert reader.metadata["layout"] == f"{data}x{model}x{stages}"
    assert reader.strings == ({"codellama_train_state": STATE_TEXT} if described else {})
    # the order of a file that was never cut: weights, both moments, the rest
    assert reader.names() == [*WHOLE, "global_step", "scale_sense", "epoch_num", "step_num"]


def test_any_box_is_read_from_the_parts_it_meets(tmp_path: Path) -> None:
    write_shards(tmp_path, model_layout(2, 2, 1, zero=True), WHOLE)
    reader = open_sharded(tmp_path)
    for name in (
        "model.layers.0.attention.wo.weight",
        "adam_m.model.layers.0.attention.wo.weight",
        "adam_v.model.layers.1.attention.wq.weight",
    ):
        tensor = pickle.loads(pickle.dumps(reader.tensor(name)))  # workers get it so
        assert isinstance(tensor, JoinedTensor)
        for box in (Box((3, 5), (29, 31)), Box((0, 16), (16, 32)), Box((15, 15), (17, 17)), Box((4, 4), (4, 9))):
            np.testing.assert_array_equal(read_box(tensor, box), WHOLE[name][box.slices])


def test_the_folder_may_be_the_output_directory_or_opened_like_any_checkpoint(tmp_path: Path) -> None:
    write_shards(tmp_path / "checkpoint", model_layout(1, 2, 2), WHOLE)
    assert_whole(open_sharded(tmp_path))
    assert_whole(open_checkpoint(tmp_path))
    assert_whole(open_checkpoint(tmp_path / "checkpoint"))


def test_the_newest_step_that_is_complete_on_all_ranks_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    layout = model_layout(1, 2, 1)
    write_shards(tmp_path, layout, WHOLE, name="net_rank_{rank}-2_7", save="a")
    newer = {name: values + 1 for name, values in WHOLE.items()}
    newest = write_shards(tmp_path, layout, newer, name="net_rank_{rank}-2_8", state={"step_num": np.int64(8)}, save="b")
    assert open_sharded(tmp_path).read("step_num") == 8
    whole = newest[1].read_bytes()
    newest[1].write_bytes(whole[:-2000])  # cut short: the step before is taken, and told
    assert_whole(open_sharded(tmp_path))
    assert "is cut short" in caplog.text
    newest[1].unlink()
    assert_whole(open_sharded(tmp_path))
    assert "no file of rank 1" in caplog.text


def test_steps_count_as_the_files_say_not_as_their_names_do(tmp_path: Path) -> None:
    layout = model_layout(1, 2, 1)
    older = {name: values + 1 for name, values in WHOLE.items()}
    write_shards(tmp_path, layout, older, name="net_rank_{rank}-9_1", state={"step_num": np.int64(6)})
    write_shards(tmp_path, layout, WHOLE, name="net_rank_{rank}-2_7")
    assert_whole(open_sharded(tmp_path))


def test_files_named_alike_of_two_saves_are_not_mixed(tmp_path: Path) -> None:
    layout = model_layout(1, 2, 1)
    write_shards(tmp_path, layout, WHOLE, name="net-network", save="a")
    other = write_shards(tmp_path / "other", layout, WHOLE, name="net-network", save="b")
    shutil.copy(other[1], tmp_path / "rank_1/net-network.ckpt")
    with pytest.raises(CheckpointError, match="is of another save than"):
        open_sharded(tmp_path)
    with pytest.raises(CheckpointError, match="is of another save than"):
        open_shards({0: tmp_path / "rank_0/net-network.ckpt", 1: other[1]})
    assert_whole(open_shards(other))


def test_a_newer_run_on_fewer_ranks_in_the_same_folder(tmp_path: Path) -> None:
    older = {name: values + 1 for name, values in WHOLE.items()}
    write_shards(tmp_path, model_layout(2, 2, 1), older, name="net_rank_{rank}-1_3", state={"step_num": np.int64(3)})
    write_shards(tmp_path, model_layout(1, 2, 1), WHOLE, name="net_rank_{rank}-2_7")
    assert_whole(open_sharded(tmp_path))
    alone = {name: values - 1 for name, values in WHOLE.items()}  # and one process, whose files do not describe themselves
    write_ckpt(tmp_path / "rank_0/net_rank_0-3_1.ckpt", {**alone, "step_num": np.int64(9)}.items())
    reader = open_sharded(tmp_path)
    assert reader.read("step_num") == 9
    np.testing.assert_array_equal(reader.read("lm_head.weight"), alone["lm_head.weight"])


def test_names_of_other_tools(tmp_path: Path) -> None:
    layout = model_layout(1, 2, 1)
    for name in ("checkpoint_{rank}", "llama2_7b{rank}", "net", "x_rank_{rank}-network"):
        write_shards(tmp_path / name[:4], layout, WHOLE, name=name)
        assert_whole(open_sharded(tmp_path / name[:4]))
    write_shards(tmp_path / "both", layout, {name: values + 1 for name, values in WHOLE.items()}, name="b_{rank}")
    write_shards(tmp_path / "both", layout, WHOLE, name="a_{rank}")
    for path in tmp_path.glob("both/*/a_*"):
        os.utime(path, (1, 1))
    assert_whole(open_sharded(tmp_path / "both", prefix="a_"))


def test_a_lost_replica_is_not_missed_but_a_lost_part_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout = model_layout(2, 2, 2)
    write_shards(tmp_path, layout, WHOLE)
    shutil.rmtree(tmp_path / "rank_2")  # data 1, model 0, stage 0: a copy of rank 0
    assert_whole(open_sharded(tmp_path))
    assert "(no file of rank 2); the other ranks hold all" in caplog.text
    shutil.rmtree(tmp_path / "rank_0")
    with pytest.raises(CheckpointError, match=r"lacks the shard of rank 0, 2 of 8 \(no file of rank 0, 2\)"):
        open_sharded(tmp_path)


def test_a_lost_stage_is_missed(tmp_path: Path) -> None:
    write_shards(tmp_path, model_layout(1, 2, 2), WHOLE)
    shutil.rmtree(tmp_path / "rank_2")
    shutil.rmtree(tmp_path / "rank_3")
    with pytest.raises(CheckpointError, match=r"lacks the shard of rank 2, 3 of 4.*pipeline stage 1 is not whole"):
        open_sharded(tmp_path)


def test_a_truncated_shard_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_shards(tmp_path, model_layout(1, 2, 1), WHOLE)
    files[1].write_bytes(files[1].read_bytes()[:20000])
    with pytest.raises(CheckpointError, match=rf"lacks the shard of rank 1 of 2 \({files[1]}: is cut short after") as refused:
        open_sharded(tmp_path)
    assert str(refused.value).count("Fix:") == 1
    assert not caplog.records, "told once, by the error"


def test_shards_that_say_nothing_are_refused_without_a_strategy(tmp_path: Path) -> None:
    write_shards(tmp_path, model_layout(1, 2, 1), WHOLE, described=False)
    with pytest.raises(CheckpointError, match=r"do not say which part.*output/strategy"):
        open_sharded(tmp_path)


def test_copies_of_a_whole_model_are_one(tmp_path: Path) -> None:
    write_shards(tmp_path, model_layout(2, 1, 1), WHOLE, described=False)
    assert_whole(open_sharded(tmp_path))


def test_a_description_carried_over_from_other_tensors_is_not_believed(tmp_path: Path) -> None:
    """MindSpore's transform copies entries it does not know."""
    layout = model_layout(1, 2, 1)
    write_shards(tmp_path, layout, WHOLE)
    shutil.copy(tmp_path / "rank_0/net_rank_0-2_7.ckpt", tmp_path / "rank_1/net_rank_1-2_7.ckpt")  # says rank 0
    with pytest.raises(CheckpointError, match="another save|do not say"):
        open_sharded(tmp_path)


@pytest.mark.parametrize(
    ("saved", "claimed", "text"),
    [
        ((1, 4, 1), (1, 2, 1), "on rank 2; the strategy .2 ranks."),
        ((1, 2, 1), (1, 4, 1), "lacks the shard of rank 2, 3 of 4"),
        ((1, 4, 1), (2, 2, 1), "differs from that of .*another layout"),
        ((2, 2, 1), (1, 4, 1), "makes 64 query rows of the shards in .*, the model is 32 wide"),
        ((1, 2, 2), (1, 4, 1), "parts hold|is part of"),
        ((1, 4, 1), (1, 2, 2), "is on rank 0; the strategy .4 ranks. has it on stage 1 of 2"),
    ],
)
def test_a_strategy_of_another_layout_is_refused(
    tmp_path: Path, saved: tuple[int, int, int], claimed: tuple[int, int, int], text: str
) -> None:
    write_shards(tmp_path / "shards", model_layout(*saved), WHOLE, described=False)
    with pytest.raises(CodeLlamaError) as refused:
        open_sharded(tmp_path / "shards", strategy=strategies(tmp_path / "strategy", model_layout(*claimed)))
    assert re.search(text, str(refused.value)), refused.value


def test_shards_that_describe_themselves_take_their_own_strategy(tmp_path: Path) -> None:
    layout = model_layout(2, 2, 2, zero=True)
    write_shards(tmp_path / "shards", layout, WHOLE)
    assert_whole(open_sharded(tmp_path / "shards", strategy=strategies(tmp_path / "strategy", layout)))


@pytest.mark.parametrize("foreign", [(2, 1, 1), (1, 4, 1), (1, 1, 2), (1, 1, 1)])
def test_shards_that_describe_themselves_refuse_a_foreign_strategy(tmp_path: Path, foreign: tuple[int, int, int]) -> None:
    write_shards(tmp_path / "shards", model_layout(1, 2, 1), WHOLE)
    with pytest.raises(CheckpointError, match=r"strategy: is of another run: it cuts \S+ otherwise") as refused:
        open_sharded(tmp_path / "shards", strategy=strategies(tmp_path / "strategy", model_layout(*foreign)))
    assert str(refused.value).count("is of another run") == 1


def test_a_rank_that_reads_its_own_shard_refuses_a_missing_or_foreign_strategy(tmp_path: Path) -> None:
    layout = model_layout(1, 2, 1)
    write_shards(tmp_path / "shards", layout, WHOLE)
    own = {name: part.shape for name in WHOLE if (part := expected_part(name, WHOLE[name], layout, 1)) is not None}
    start = partial(open_source, tmp_path / "shards", own, model_layout=layout, rank=1)
    assert start(strategy=str(strategies(tmp_path / "same", layout))).own
    with pytest.raises(CheckpointError, match="nothing: does not exist"):
        start(strategy=str(tmp_path / "nothing"))
    said = set()
    for rank in (0, 1):
        with pytest.raises(CheckpointError, match="is of another run") as refused:
            start(strategy=str(strategies(tmp_path / "foreign", model_layout(2, 1, 1))), rank=rank)
        said.add(str(refused.value))
    assert len(said) == 1, "the same from every rank, so that one tells it"


def test_a_strategy_of_another_model_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", model_layout(1, 2, 1), WHOLE)
    smaller = model_layout(1, 2, 1)
    smaller = replace(smaller, config=replace(smaller.config, num_layers=2))
    with pytest.raises(CheckpointError, match=r"does not know model\.layers\.2\."):
        open_sharded(tmp_path / "shards", strategy=strategies(tmp_path / "strategy", smaller))


def test_replicas_that_differ_are_found_when_asked(tmp_path: Path) -> None:
    layout = model_layout(2, 2, 1)
    write_shards(tmp_path, layout, WHOLE)
    other = dict(WHOLE)
    other["model.layers.3.feed_forward.w2.weight"] = WHOLE["model.layers.3.feed_forward.w2.weight"].copy()
    other["model.layers.3.feed_forward.w2.weight"][-1, -1] += 1
    changed = write_shards(tmp_path / "other", layout, other)
    shutil.copy(changed[3], tmp_path / "rank_3/net_rank_3-2_7.ckpt")
    assert_whole(open_sharded(tmp_path))
    with pytest.raises(CheckpointError, match=r"rank_3.*w2\.weight: differs from that of .*rank_1"):
        open_sharded(tmp_path, verify=True)


def test_a_changed_byte_is_found_when_asked(tmp_path: Path) -> None:
    files = write_shards(tmp_path, model_layout(1, 2, 1), WHOLE)
    contents = bytearray(files[1].read_bytes())
    values = WHOLE["model.norm_out.weight"].tobytes()
    contents[contents.index(values)] ^= 1
    files[1].write_bytes(contents)
    open_sharded(tmp_path)
    with pytest.raises(CheckpointError, match=r"rank_1.*checksum"):
        open_sharded(tmp_path, verify=True)


def test_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no rank_N folders"):
        open_sharded(tmp_path)
    (tmp_path / "rank_0").mkdir()
    with pytest.raises(CheckpointError, match="hold no checkpoint"):
        open_sharded(tmp_path)


def test_the_tiny_model_is_cut_as_the_test_says(tmp_path: Path) -> None:
    assert len(WHOLE) == 3 * (3 + 9 * MODEL.num_layers)
