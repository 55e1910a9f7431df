"""Training through the launcher: a rank killed at some step, and the restart that ends with the weights of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ranks import free_port
from training_case import config, write_data

from mindformers_codellama.checkpoint.ckpt_format import read_ckpt

STEPS, ROWS_PER_STEP = 24, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "d.mindrecord", rows=STEPS * ROWS_PER_STEP)


def start(folder, data, *flags):
    settings = config(data, folder / "out", parallel_config={"data_parallel": 2, "model_parallel": 1, "pipeline_stage": 1})
    settings["callbacks"][1] |= {"save_checkpoint_steps": 4, "keep_checkpoint_max": 2}
    folder.mkdir()
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "mindformers_codellama.cli.main", "launch", "--ranks", "2", "--master", f"127.0.0.1:{free_port()}"]
    command += [*flags, "--", "run", "--config", str(folder / "run.yaml"), "--run_mode", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def final(folder):
    """Every tensor of the last checkpoint of each rank."""
    found = []
    for rank in range(2):
        files = sorted((folder / "out/checkpoint" / f"rank_{rank}").glob("*.ckpt"), key=lambda path: int(path.stem.rsplit("_", 1)[1]))
        found.append({name: value.tobytes() for name, value in read_ckpt(files[-1]).items() if hasattr(value, "tobytes")})
        assert files[-1].stem.endswith(f"_{STEPS}")
    return found


def rank_process(folder, rank):
    """Process id of a rank of the job in `folder`, seen from outside."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                inside = os.readlink(entry / "cwd") == str(folder)
            except OSError:
                continue
            if inside and f"RANK_ID={rank}".encode() in variables and b"MS_ROLE=MS_WORKER" in variables:
                return int(entry.name)
    raise AssertionError(f"rank {rank} does not run")


def test_a_killed_rank_and_a_restart_give_the_weights_of_an_undisturbed_run(tmp_path, data):
    whole = start(tmp_path / "whole", data)
    out, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, out
    broken = start(tmp_path / "broken", data, "--max-restarts", "2")
    until = time.monotonic() + 200
    while len(list((tmp_path / "broken/out/checkpoint").glob("rank_*/t_rank_*-1_8.ckpt"))) < 2:
        assert time.monotonic() < until
        assert broken.poll() is None, broken.communicate()[0]
        time.sleep(0.01)
    os.kill(rank_process(tmp_path / "broken", 1), signal.SIGKILL)
    out, _ = broken.communicate(timeout=300)
    assert broken.returncode == 0, out
    assert "rank 1 ended first, by SIGKILL (signal 9)" in out
    assert "restart 1 of 2, port " in out
    assert ", from the last checkpoint." in out
    first_steps = (tmp_path / "broken/out/log/train.jsonl").read_text()
    assert first_steps.count('"step": 1,') == 1, "the first steps were not done again"
    assert final(tmp_path / "broken") == final(tmp_path / "whole")


def test_an_error_of_the_configuration_is_told_once_before_any_rank_starts(tmp_path, data):
    job = start(tmp_path / "wrong", data, "--ranks", "3", "--max-restarts", "3")
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 2
    assert out.count("2 * 1 * 1 = 2, but there are 3 ranks") == 1
    assert "restart 1" not in out
    assert not (tmp_path / "wrong/output").exists()
