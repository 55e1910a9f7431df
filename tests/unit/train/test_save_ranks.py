"""Saving and resuming with several ranks: cuts against numpy slices, complete steps, pruning, one message for a failure.

Ranks are threads here; `tests/cluster` does the same with processes and MindSpore's communication.
"""

import errno
import itertools
import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from ranks_case import (
    TINY,
    ThreadComm,
    checked,
    find,
    folder_of,
    lay,
    on_ranks,
    part,
    restore_and_compare,
    save_steps,
    saved_state,
    truth,
    update_of,
)

from mindformers_codellama.checkpoint import files as checkpoint_files
from mindformers_codellama.checkpoint.ckpt_format import read_ckpt
from mindformers_codellama.checkpoint.shard_info import read_shard_text, shard_info, shard_text
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import CheckpointError, ConfigError, ToldElsewhere, TrainingError
from mindformers_codellama.train import strategies
from mindformers_codellama.train.resume import other_branch
from mindformers_codellama.train.strategies import save_strategy

LAYOUTS = {
    "1x1x1": lay(1, 1, 1),
    "2x2x1": lay(2, 2, 1),
    "1x2x2": lay(1, 2, 2),
    "2x1x2": lay(2, 1, 2),
    "1x4x1": lay(1, 4, 1),
    "4x1x1": lay(4, 1, 1),
    "2x2x1 without ZeRO, vocabulary whole": lay(2, 2, 1, vocabulary=False, zero=False),
    "1x1x2": lay(1, 1, 2),
}


def name_of(rank, place):
    return f"t_rank_{rank}-1_{place}.ckpt"


def files_of(root, rank):
    return sorted(path.name for path in (root / "checkpoint" / f"rank_{rank}").glob("*.ckpt"))


@pytest.mark.parametrize("saved", LAYOUTS)
def test_resumed_on_any_layout_weights_moments_and_state_are_the_same_to_the_bit(tmp_path, saved):
    save_steps(tmp_path, LAYOUTS[saved], [7])
    for name, layout in LAYOUTS.items():
        points = checked(find(tmp_path, layout, auto_trans=True))
        assert all(point.own == (name == saved) for point in points) or name == "1x1x1", (saved, name)
        restore_and_compare(points, layout, 7)


def test_a_rank_of_the_same_layout_has_its_own_random_state_and_on_another_rank_0s(tmp_path):
    save_steps(tmp_path, LAYOUTS["2x2x1"], [3])
    assert [point.saved for point in checked(find(tmp_path, LAYOUTS["2x2x1"]))] == [saved_state(3, rank) for rank in range(4)]
    others = checked(find(tmp_path, LAYOUTS["1x2x2"], auto_trans=True))
    assert [point.saved for point in others] == [saved_state(3, 0)] * 4


def test_files_hold_the_ranks_slices_and_say_so(tmp_path):
    layout = LAYOUTS["2x2x1"]
    save_steps(tmp_path, layout, [3])
    for rank in range(4):
        values = read_ckpt(tmp_path / "checkpoint" / f"rank_{rank}" / name_of(rank, 3))
        for name in ("lm_head.weight", "adam_m.model.layers.1.attention.wo.weight", "adam_v.model.norm_out.weight"):
            assert (values[name] == part(layout, name, rank, 3)).all()
        info = read_shard_text(values["codellama_shard"], where="here")
        assert info.pieces == shard_info(layout, rank).pieces
        assert (values["step_num"], values["global_step"].tolist()) == (3, [2])
        network = read_ckpt(tmp_path / "checkpoint_network" / f"rank_{rank}" / f"t_rank_{rank}-network.ckpt")
        assert {name for name in network if name != "codellama_shard"} == set(layout.shapes)
        assert read_shard_text(network["codellama_shard"], where="here").save == info.save


def test_the_description_comes_back_exactly():
    for layout, rank in itertools.product(LAYOUTS.values(), range(4)):
        if rank < layout.layout.ranks:
            info = shard_info(layout, rank, save="a-1")
            assert read_shard_text(shard_text(info), where="here") == info
    with pytest.raises(CheckpointError, match="damaged codellama_shard"):
        read_shard_text("{}", where="here")


def test_shards_of_another_layout_need_auto_trans_ckpt_and_that_is_told_once(tmp_path):
    save_steps(tmp_path, LAYOUTS["2x2x1"], [3])
    results = find(tmp_path, LAYOUTS["1x4x1"])
    assert isinstance(results[0], CheckpointError)
    assert "auto_trans_ckpt: True" in str(results[0])
    assert "layout 2x2x1" in str(results[0])
    assert all(isinstance(result, ToldElsewhere) for result in results[1:])
    assert {result.exit_code for result in results} == {CheckpointError.exit_code}


def test_on_disks_of_their_own_every_rank_resumes_from_its_own_folder(tmp_path):
    def disk(rank):
        return tmp_path / f"machine_{rank // 2}"

    save_steps(disk, LAYOUTS["2x2x1"], [3, 4])
    points = checked(find(disk, LAYOUTS["2x2x1"]))
    assert all(point.own for point in points)
    restore_and_compare(points, LAYOUTS["2x2x1"], 4)
    (tmp_path / "machine_1" / "checkpoint" / "rank_3" / name_of(3, 4)).unlink()
    restore_and_compare(checked(find(disk, LAYOUTS["2x2x1"])), LAYOUTS["2x2x1"], 3)


def test_on_disks_of_their_own_missing_folders_are_told_with_path_and_hosts(tmp_path, monkeypatch):
    def disk(rank):
        return tmp_path / f"machine_{rank // 2}"

    save_steps(disk, LAYOUTS["2x2x1"], [3])
    monkeypatch.setattr("mindformers_codellama.train.saved_steps.host_name", lambda: "far")
    os.rename(tmp_path / "machine_1" / "checkpoint", tmp_path / "kept")
    results = find(disk, LAYOUTS["2x2x1"])
    assert "machine_0: has no step that is complete on all ranks" in str(results[0])
    assert "of the newest, step 3 (-1_3, layout 2x2x1), rank 2, 3 has no whole file on far" in str(results[0])
    os.rename(tmp_path / "machine_0" / "checkpoint", tmp_path / "kept too")
    assert "has no complete checkpoint with optimizer state (0 files looked at)" in str(find(disk, LAYOUTS["2x2x1"])[0])


@pytest.mark.parametrize("how", ["missing", "cut short", "one bit", "a name", "another save"])
def test_when_one_ranks_file_is_no_good_everyone_takes_the_step_before(tmp_path, caplog, how):
    layout = LAYOUTS["2x2x1"]
    save_steps(tmp_path, layout, [3, 4])
    bad = tmp_path / "checkpoint" / "rank_2" / name_of(2, 4)
    data = bytearray(bad.read_bytes())
    if how == "missing":
        bad.unlink()
    elif how == "cut short":
        bad.write_bytes(data[: len(data) // 2])
    elif how == "one bit":
        data[len(data) // 2] ^= 1
        bad.write_bytes(data)
    elif how == "a name":
        bad.write_bytes(data.replace(b"wq.weight", b"wx.weight", 1))
    else:
        save_steps(tmp_path / "other", layout, [4])
        bad.write_bytes((tmp_path / "other" / "checkpoint" / "rank_2" / name_of(2, 4)).read_bytes())
    with caplog.at_level(logging.WARNING):
        points = checked(find(tmp_path, layout))
    restore_and_compare(points, layout, 3)
    told = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert len(told) == (2 if how == "another save" else 1), told

    # the files of the incomplete step are no other branch, and go once the next step is saved by all
    def go_on(comm):
        folder = folder_of(tmp_path, comm, layout, keep_checkpoint_max=9)
        point = points[comm.rank]
        assert other_branch(point, folder.existing()) == []
        folder.replace([], incomplete=point.passed_over, ranks_before=len(point.files))
        folder.save(update_of(layout, comm.rank, 5), saved_state(5, comm.rank), (1, 5))

    checked(on_ranks(layout.layout, go_on))
    assert [files_of(tmp_path, rank) for rank in range(4)] == [[name_of(rank, 3), name_of(rank, 5)] for rank in range(4)]


def test_old_checkpoints_stay_until_every_rank_has_the_new_one(tmp_path, monkeypatch):
    layout = LAYOUTS["2x2x1"]
    write_array = checkpoint_files.Output.write_array

    def full_on_rank_2(self, values):
        if "rank_2" in self._file.name and "1_5" in self._file.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_array(self, values)

    def run(comm):
        folder = folder_of(tmp_path, comm, layout)
        for step in (3, 4, 5):
            folder.save(update_of(layout, comm.rank, step), saved_state(step, comm.rank), (1, step))

    monkeypatch.setattr(checkpoint_files.Output, "write_array", full_on_rank_2)
    results = on_ranks(layout.layout, run)
    assert isinstance(results[2], TrainingError)
    assert "the disk is full" in str(results[2])
    assert f"last complete checkpoint is {tmp_path}/checkpoint/rank_2/{name_of(2, 4)}" in str(results[2])
    assert all(isinstance(results[rank], ToldElsewhere) and results[rank].exit_code == TrainingError.exit_code for rank in (0, 1, 3))
    monkeypatch.undo()
    assert files_of(tmp_path, 2) == [name_of(2, 3), name_of(2, 4)]
    assert {name_of(0, 3), name_of(0, 4)} <= set(files_of(tmp_path, 0))
    restore_and_compare(checked(find(tmp_path, layout)), layout, 4)


def test_only_the_newest_are_kept_on_every_rank(tmp_path):
    save_steps(tmp_path, LAYOUTS["1x2x2"], [8, 9, 10, 11])
    assert [files_of(tmp_path, rank) for rank in range(4)] == [[name_of(rank, 10), name_of(rank, 11)] for rank in range(4)]


def test_a_run_that_goes_on_with_fewer_ranks_prunes_the_folders_that_are_left(tmp_path):
    save_steps(tmp_path, LAYOUTS["2x2x1"], [3, 4])
    single = LAYOUTS["1x1x1"]

    def go_on(comm):
        (point,) = checked(find(tmp_path, single, auto_trans=True))
        folder = folder_of(tmp_path, comm, single)
        folder.replace([], incomplete=point.passed_over, ranks_before=len(point.files))
        for step in (5, 6):
            folder.save(update_of(single, 0, step), saved_state(step), (1, step))
            restore_and_compare(checked(find(tmp_path, single, auto_trans=True)), single, step)
            yield [files_of(tmp_path, rank) for rank in range(4)]

    first, second = go_on(ThreadComm(0, single.layout, [b""], None))
    assert first == [[name_of(0, 4), name_of(0, 5)], *([name_of(rank, 4)] for rank in (1, 2, 3))]
    assert second == [[name_of(0, 5), name_of(0, 6)], [], [], []]
    restore_and_compare(checked(find(tmp_path, LAYOUTS["1x2x2"], auto_trans=True)), LAYOUTS["1x2x2"], 6)


def test_one_process_resumes_what_ranks_saved_only_with_auto_trans_ckpt(tmp_path):
    save_steps(tmp_path, LAYOUTS["1x2x2"], [3])
    (refused,) = find(tmp_path, LAYOUTS["1x1x1"])
    assert "auto_trans_ckpt: True" in str(refused)
    restore_and_compare(checked(find(tmp_path, LAYOUTS["1x1x1"], auto_trans=True)), LAYOUTS["1x1x1"], 3)


def test_a_named_file_chooses_its_step(tmp_path):
    layout = LAYOUTS["2x1x2"]
    save_steps(tmp_path, layout, [3, 4])
    points = checked(find(tmp_path / "checkpoint" / "rank_1" / name_of(1, 3), layout))
    restore_and_compare(points, layout, 3)


def test_safetensors_shards_resume_the_same(tmp_path):
    save_steps(tmp_path, LAYOUTS["2x2x1"], [3], checkpoint_format="safetensors")
    assert not files_of(tmp_path, 0)
    restore_and_compare(checked(find(tmp_path, LAYOUTS["2x2x1"])), LAYOUTS["2x2x1"], 3)
    restore_and_compare(checked(find(tmp_path, LAYOUTS["1x1x1"], auto_trans=True)), LAYOUTS["1x1x1"], 3)


def test_nothing_complete_is_told_once_with_the_ranks_that_lack_it(tmp_path):
    layout = LAYOUTS["2x2x1"]
    save_steps(tmp_path, layout, [3])
    (tmp_path / "checkpoint" / "rank_1" / name_of(1, 3)).unlink()
    results = find(tmp_path, layout)
    assert "no step that is complete on all ranks; of the newest, step 3 (-1_3, layout 2x2x1), rank 1 has no whole file" in str(results[0])
    assert all(isinstance(result, ToldElsewhere) for result in results[1:])


def test_a_damaged_file_is_named_when_nothing_is_complete(tmp_path):
    layout = LAYOUTS["2x2x1"]
    save_steps(tmp_path, layout, [3])
    damaged = tmp_path / "checkpoint" / "rank_1" / name_of(1, 3)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    results = find(tmp_path, layout)
    assert str(damaged) in str(results[0])
    assert all(isinstance(result, ToldElsewhere) for result in results[1:])


def test_the_tiny_model_is_cut_in_every_way():
    """The tests above prove something only when tensors really are cut by rows, by columns, and by ZeRO."""
    layout = LAYOUTS["2x2x1"]
    assert layout.box("model.layers.0.attention.wo.weight", 1).start == (0, 16)
    assert layout.box("adam_m.model.layers.0.attention.wq.weight", 2).shape == (8, 32)
    assert layout.cuts_vocabulary
    assert TINY.num_layers == 2
    assert np.prod(layout.box("adam_v.model.norm_out.weight", 0).shape) == 16


def test_mindspores_own_tools_merge_what_a_run_saves(tmp_path):
    """Its strategy files and its checkpoints, through `merge_pipeline_strategys` and `transform_checkpoints`."""
    layout = LAYOUTS["2x1x2"]
    save_steps(tmp_path, layout, [3, 4])
    settings = SimpleNamespace(output_dir=str(tmp_path), parallel=SimpleNamespace(strategy_ckpt_save_file="./ckpt_strategy.ckpt"))
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "ckpt_strategy_rank_7.ckpt").write_bytes(b"of an earlier layout")
    checked(on_ranks(layout.layout, lambda comm: save_strategy(settings, comm, layout)))
    assert sorted(path.name for path in (tmp_path / "strategy").iterdir()) == [f"ckpt_strategy_rank_{rank}.ckpt" for rank in range(4)]
    ms.merge_pipeline_strategys(str(tmp_path / "strategy"), str(tmp_path / "merged.ckpt"))
    for folder, prefixes in (("checkpoint", ("", "adam_m.", "adam_v.")), ("checkpoint_network", ("",))):
        ms.transform_checkpoints(str(tmp_path / folder), str(tmp_path / f"whole_{folder}"), "checkpoint_", str(tmp_path / "merged.ckpt"))
        values = read_ckpt(tmp_path / f"whole_{folder}" / "rank_0" / "checkpoint_0.ckpt")
        for prefix, name in itertools.product(prefixes, layout.shapes):
            assert (values[prefix + name] == truth(layout, prefix + name, 4)).all(), prefix + name


def test_forced_a_new_run_removes_the_checkpoints_of_all_ranks_of_the_old_one(tmp_path):
    save_steps(tmp_path, LAYOUTS["2x2x1"], [90])
    layout = LAYOUTS["1x1x2"]

    def run(comm):
        folder = folder_of(tmp_path, comm, layout)
        with pytest.raises(ConfigError, match="already holds 1 checkpoints of another run"):
            folder.refuse_foreign(force=False)
        folder.refuse_foreign(force=True)
        folder.save(update_of(layout, comm.rank, 1), saved_state(1, comm.rank), (1, 1))

    checked(on_ranks(layout.layout, run))
    assert [files_of(tmp_path, rank) for rank in range(4)] == [[name_of(0, 1)], [name_of(1, 1)], [], []]


def test_only_save_strategy_writes_the_files_and_nothing_else(tmp_path, monkeypatch, caplog):
    settings = read_run(
        Path(__file__).parents[3] / Path("configs/codellama/finetune_codellama_tiny_4p.yaml"), overrides=[f"output_dir={tmp_path / 'out'}"]
    )
    monkeypatch.setattr(strategies, "require_runnable", lambda run: None)
    monkeypatch.setattr(strategies, "enter_context", lambda context: None)
    layout = strategies.run_layout(settings)
    here = threading.local()
    monkeypatch.setattr(strategies, "join", lambda layout: here.comm)

    def run(comm):
        here.comm = comm
        return strategies.save_strategies_only(settings)

    assert on_ranks(layout, run) == list(range(layout.ranks))
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert names == [f"strategy/ckpt_strategy_rank_{rank}.ckpt" for rank in range(layout.ranks)]
