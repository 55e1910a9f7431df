"""Ranks that all hold the same, as of an adapter: rank 0 writes what one process would, and everybody goes on from it.

Ranks are threads here; `tests/cluster/test_training_lora.py` does the same with processes.
"""

import errno
import os

import pytest
from ranks_case import ThreadComm, checked, find, lay, on_ranks, restore_and_compare, saved_state, update_of

from mindformers_codellama.checkpoint import files as checkpoint_files
from mindformers_codellama.config.sections import CheckpointMonitor
from mindformers_codellama.errors import ConfigError, ToldElsewhere, TrainingError
from mindformers_codellama.train.adapter import require_same_model
from mindformers_codellama.train.save import CheckpointFolder

TWO, ONE = lay(2, 1, 1, zero=False), lay(1, 1, 1)


def save(root, layout, steps, *, before=0):
    """Copies save these steps; what every rank got, or its error."""

    def run(comm):
        place = root(comm.rank) if callable(root) else root
        folder = CheckpointFolder(place, CheckpointMonitor(prefix="t", keep_checkpoint_max=2), comm=comm, model_layout=layout, copies=True)
        folder.replace([], ranks_before=before)
        return [folder.save(update_of(ONE, 0, step), saved_state(step), (1, step)) for step in steps]

    return on_ranks(layout.layout, run)


def names(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.ckpt"))


def test_rank_0_writes_what_one_process_would_and_keeps_the_newest(tmp_path):
    paths = checked(save(tmp_path / "two", TWO, [3, 4, 5]))
    assert paths[0] == paths[1], "every rank is told the same"
    checked(save(tmp_path / "one", ONE, [3, 4, 5]))
    assert names(tmp_path / "two") == names(tmp_path / "one")
    assert [name for name in names(tmp_path / "two") if name.startswith("checkpoint/")] == [
        "checkpoint/rank_0/t_rank_0-1_4.ckpt",
        "checkpoint/rank_0/t_rank_0-1_5.ckpt",
    ]
    for name in names(tmp_path / "two"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    for layout in (TWO, ONE):
        points = checked(find(tmp_path / "two", layout))
        assert not any(point.own for point in points)
        restore_and_compare(points, layout, 5)


def test_a_full_disk_of_rank_0_ends_all_and_leaves_the_step_before(tmp_path, monkeypatch):
    checked(save(tmp_path, TWO, [3]))

    def full(self, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_files.Output, "write_array", full)
    results = save(tmp_path, TWO, [4])
    assert isinstance(results[0], TrainingError)
    assert "t_rank_0-1_3.ckpt; resume from it" in str(results[0])
    assert isinstance(results[1], ToldElsewhere)
    monkeypatch.undo()
    restore_and_compare(checked(find(tmp_path, TWO)), TWO, 3)


def test_on_disks_of_their_own_only_the_first_gets_files(tmp_path):
    checked(save(lambda rank: tmp_path / f"machine_{rank}", TWO, [3]))
    assert [path.name for path in tmp_path.iterdir()] == ["machine_0"]


def test_another_run_is_refused_by_all(tmp_path):
    checked(save(tmp_path, TWO, [3]))

    def run(comm):
        folder = CheckpointFolder(tmp_path, CheckpointMonitor(prefix="t"), comm=comm, model_layout=TWO, copies=True)
        with pytest.raises(ConfigError, match="already holds 1 checkpoints of another run"):
            folder.refuse_foreign(force=False)

    checked(on_ranks(TWO.layout, run))


def test_ranks_with_other_models_below_the_adapter_are_refused(tmp_path):
    def run(digests):
        return on_ranks(TWO.layout, lambda comm: require_same_model(comm, "hf", digests[comm.rank]))

    checked(run(["a", "a"]))
    results = run(["a", "b"])
    assert "hf: holds another model for rank 1 than for rank 0" in str(results[0])
    assert isinstance(results[1], ToldElsewhere)
    require_same_model(ThreadComm(0, ONE.layout, [b""], None), "hf", "a")
