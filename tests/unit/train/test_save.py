"""Saving: a kill at any moment, every state a kill can leave, full disks, pruning and names.

The saves here are the real ones of a stand-in optimizer whose "parameters" are numpy arrays filled with the
step number, so a checkpoint that mixes two steps is seen at once.
"""

import errno
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from mindformers_codellama.checkpoint import files
from mindformers_codellama.checkpoint.ckpt_format import read_ckpt
from mindformers_codellama.config.sections import CheckpointMonitor
from mindformers_codellama.errors import CheckpointError, ConfigError, TrainingError
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.resume import find_resume_point, other_branch
from mindformers_codellama.train.save import CheckpointFolder
from mindformers_codellama.train.state import RunFacts, SavedState, TrainState, read_state_text, state_text

FACTS = RunFacts(
    rows=10, batch_size=2, micro_steps=1, row_length=9, seed=0, shuffle=True, columns=("input_ids",), data="abc", optimizer="AdamW"
)


class Array:
    """What `save` needs of a parameter."""

    def __init__(self, name, values):
        self.name, self.values = name, values
        self.shape, self.dtype = values.shape, "Float32"

    def asnumpy(self):
        return self.values


class Arrays:
    """What `save` needs of an optimizer; every number is the step."""

    def __init__(self, step, size=8):
        def group(prefix):
            return [Array(f"{prefix}{name}", np.full((size, 4), step, np.float32)) for name in ("model.norm_out.weight", "lm_head.weight")]

        self.parameters, self.adam_m, self.adam_v = group(""), group("adam_m."), group("adam_v.")


def folder_of(root, **settings):
    return CheckpointFolder(root, CheckpointMonitor(**{"prefix": "t", "keep_checkpoint_max": 2} | settings))


def saved_state(step):
    scale = LossScale(value=1024.0 / 3, factor=2.0, window=5, current_step=step + 1, last_change=step // 2)
    return SavedState(state=TrainState(step=step, updates=step - 1, scale=scale), facts=FACTS, random={"mindspore": "00ff"}, run_id="r")


def save_step(folder, step, size=8):
    return folder.save(Arrays(step, size), saved_state(step), (1, step))


def check_whole(path, step):
    values = read_ckpt(path)
    tensors = {name: value for name, value in values.items() if name.endswith(".weight")}
    assert len(tensors) == 6
    assert all((value == step).all() for value in tensors.values())
    assert values["step_num"] == step


def test_names_and_entries_are_mindformers(tmp_path):
    path = save_step(folder_of(tmp_path), 3)
    assert path == tmp_path / "checkpoint" / "rank_0" / "t_rank_0-1_3.ckpt"
    values = read_ckpt(path)
    assert values["global_step"].tolist() == [2]
    assert (values["epoch_num"], values["step_num"], values["loss_scale"]) == (1, 3, np.float32(1024.0 / 3))
    assert {"adam_m.lm_head.weight", "adam_v.lm_head.weight", "scale_sense", "current_iterator_step"} <= set(values)
    network = read_ckpt(tmp_path / "checkpoint_network" / "rank_0" / "t_rank_0-network.ckpt")
    assert sorted(network) == ["lm_head.weight", "model.norm_out.weight"]


@pytest.mark.parametrize("format_name", ["ckpt", "safetensors"])
def test_the_state_comes_back_exactly(tmp_path, format_name):
    save_step(folder_of(tmp_path, checkpoint_format=format_name), 3)
    point = find_resume_point(tmp_path)
    assert point.saved == saved_state(3)
    assert read_state_text(state_text(saved_state(7)), where="here") == saved_state(7)
    assert (point.reader.read("adam_v.lm_head.weight") == 3).all()


def test_only_the_newest_are_kept_and_a_newer_name_of_another_attempt_is_not_what_is_removed_first(tmp_path):
    folder = folder_of(tmp_path)
    for step in (8, 9, 10, 11):
        save_step(folder, step)
    assert [path.name for path in folder.existing()] == ["t_rank_0-1_10.ckpt", "t_rank_0-1_11.ckpt"]


def test_a_new_run_refuses_the_checkpoints_of_another_and_with_force_removes_them_only_after_its_first_save(tmp_path):
    save_step(folder_of(tmp_path), 90)
    with pytest.raises(ConfigError, match=r"output_dir: already holds 1 checkpoints of another run.*resume_training: True.*--force"):
        folder_of(tmp_path).refuse_foreign(force=False)
    fresh = folder_of(tmp_path)
    fresh.refuse_foreign(force=True)
    assert len(fresh.existing()) == 1
    save_step(fresh, 1)
    assert [path.name for path in fresh.existing()] == ["t_rank_0-1_1.ckpt"]


def test_a_full_disk_is_told_with_the_last_checkpoint_and_leaves_no_half_file(tmp_path, monkeypatch):
    folder = folder_of(tmp_path)
    last = save_step(folder, 1)

    def full(self, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.Output, "write_array", full)
    with pytest.raises(TrainingError, match=r"the disk is full.*last complete checkpoint is .*t_rank_0-1_1.ckpt"):
        save_step(folder, 2)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.folder.iterdir()) == ["meta.json", last.name]
    check_whole(last, 1)


def test_a_cut_checkpoint_is_passed_over_at_every_length(tmp_path, caplog):
    folder = folder_of(tmp_path)
    good, newest = save_step(folder, 1), save_step(folder, 2)
    data = newest.read_bytes()
    for cut in [0, 1, 100, len(data) // 2, len(data) - 400, len(data) - 18, len(data) - 1]:
        newest.write_bytes(data[:cut])
        assert find_resume_point(tmp_path).path == good, cut
    assert "passed over" in caplog.text
    flipped = bytearray(data)
    flipped[300] ^= 1
    newest.write_bytes(flipped)
    assert find_resume_point(tmp_path).path == good
    newest.write_bytes(data)
    assert find_resume_point(tmp_path).path == newest


def test_what_a_kill_leaves_between_the_parts_of_a_save_does_no_harm(tmp_path):
    folder = folder_of(tmp_path)
    save_step(folder, 1)
    (folder.folder / ".t_rank_0-1_2.ckpt.99999.tmp").write_bytes(b"\x0a\x05half")  # killed while writing
    assert find_resume_point(tmp_path).saved.state.step == 1
    (folder.folder / "meta.json").unlink()  # killed after the rename, before meta.json
    assert find_resume_point(tmp_path).saved.state.step == 1
    for step in (2, 3):
        save_step(folder, step)
    assert not list(folder.folder.glob(".*"))


def test_the_newest_is_the_one_with_most_steps_whatever_its_name_counts(tmp_path):
    """Names count epochs of sink mode: 6_2 is step 12 with sink_size 2, 3_6 is step 18 with passes of 6 steps."""
    folder = folder_of(tmp_path, keep_checkpoint_max=9)
    folder.save(Arrays(12), saved_state(12), (6, 2))
    folder.save(Arrays(18), saved_state(18), (3, 6))
    assert find_resume_point(tmp_path).saved.state.step == 18


def test_what_this_process_saved_is_kept_before_what_it_found_whatever_the_names_say(tmp_path):
    folder_of(tmp_path).save(Arrays(12), saved_state(12), (6, 2))
    resumed = folder_of(tmp_path)
    for step, place in ((13, (3, 1)), (14, (3, 2))):
        resumed.save(Arrays(step), saved_state(step), place)
    assert [path.name for path in resumed.existing()] == ["t_rank_0-3_1.ckpt", "t_rank_0-3_2.ckpt"]


def test_checkpoints_of_another_prefix_are_resumed_only_when_there_are_none_of_this_run(tmp_path):
    save_step(folder_of(tmp_path, prefix="other"), 9)
    assert find_resume_point(tmp_path, prefix="t").saved.state.step == 9  # the prefix was changed
    save_step(folder_of(tmp_path), 2)
    assert find_resume_point(tmp_path, prefix="t").saved.state.step == 2
    assert find_resume_point(tmp_path).saved.state.step == 9


def test_later_checkpoints_and_those_of_another_run_are_another_branch_but_damaged_ones_are_not(tmp_path):
    folder = folder_of(tmp_path, keep_checkpoint_max=9)
    first, second, third = (save_step(folder, step) for step in (1, 2, 3))
    files = folder.existing()
    assert other_branch(find_resume_point(second), files) == [third]
    assert other_branch(find_resume_point(tmp_path), files) == []
    data = bytearray(third.read_bytes())
    data[300] ^= 1  # only the checksum tells
    third.write_bytes(data)
    point = find_resume_point(tmp_path)
    assert point.path == second
    assert other_branch(point, files) == []
    third.write_bytes(data[:50])
    assert other_branch(find_resume_point(first), files) == [second]
    other = replace(saved_state(1), run_id="another")
    foreign = folder.save(Arrays(1), other, (1, 0))
    assert other_branch(find_resume_point(second), folder.existing()) == [foreign]


def test_nothing_to_resume_is_told_with_what_was_looked_at(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        find_resume_point(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no complete checkpoint with optimizer state \(0 files looked at\)"):
        find_resume_point(tmp_path)
    save_step(folder_of(tmp_path), 1)
    with pytest.raises(CheckpointError, match=r"holds weights, but no state of a training run.*resume_training: False"):
        find_resume_point(tmp_path / "checkpoint_network" / "rank_0" / "t_rank_0-network.ckpt")


def save_for_ever(root, told):
    folder, step = folder_of(root), 0
    while True:
        step += 1
        save_step(folder, step, size=40_000)
        os.write(told, step.to_bytes(4, "little"))


@pytest.mark.parametrize("seed", range(4))
def test_sigkill_at_random_moments_never_loses_the_last_complete_checkpoint(tmp_path, seed):
    """16 kills of a child that does nothing but save 4 MB checkpoints (about 10 ms each)."""
    context = multiprocessing.get_context("fork")
    choose = random.Random(seed)
    for attempt in range(4):
        root = tmp_path / str(attempt)
        reading, writing = os.pipe()
        child = context.Process(target=save_for_ever, args=(root, writing))
        child.start()
        os.close(writing)
        os.read(reading, 4)  # one save is complete
        time.sleep(choose.uniform(0, 0.08))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        rest = os.read(reading, 1 << 16)
        os.close(reading)
        finished = int.from_bytes(rest[-4:], "little") if rest else 1
        point = find_resume_point(root)
        assert point.saved.state.step in (finished, finished + 1)
        check_whole(point.path, point.saved.state.step)
        for path in folder_of(root).existing():
            check_whole(path, int(path.stem.rsplit("_", 1)[1]))
