"""A configuration for many ranks, looked at from one process."""

import pytest
from train_case import write_config, write_data

from mindformers_codellama.cli.main import main
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import ClusterError
from mindformers_codellama.train.run import train

RANKS = {
    "use_parallel": True,
    "parallel_config": {"data_parallel": 2, "model_parallel": 2, "pipeline_stage": 1, "micro_batch_num": 1},
    "parallel": {"enable_parallel_optimizer": True, "parallel_optimizer_config": {"parallel_optimizer_threshold": 0}},
}


def test_a_dry_run_says_what_the_ranks_would_do(tmp_path, capsys, monkeypatch):
    for name in ("RANK_SIZE", "MS_WORKER_NUM"):
        monkeypatch.delenv(name, raising=False)
    path = write_config(tmp_path / "c.yaml", write_data(tmp_path / "d.mindrecord"), tmp_path / "out", **RANKS)
    assert main(["train", str(path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "ranks: 4 (data 2, model 2, stages 1)" in printed
    assert "steps: 6 of 8 rows (64 tokens), 3 per epoch" in printed
    assert "micro batches: 1 of 8 rows, 4 on each data rank" in printed


def test_one_process_is_told_that_it_is_no_rank(tmp_path, monkeypatch):
    for name in ("MS_ROLE", "RANK_TABLE_FILE", "OMPI_COMM_WORLD_SIZE", "RANK_SIZE", "MS_WORKER_NUM"):
        monkeypatch.delenv(name, raising=False)
    path = write_config(tmp_path / "c.yaml", write_data(tmp_path / "d.mindrecord"), tmp_path / "out", **RANKS)
    with pytest.raises(ClusterError, match="layout 2x2x1 needs 4 ranks, and this process is none. Fix: start it with `codellama launch`"):
        train(read_run(path))
