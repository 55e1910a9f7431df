"""scripts/run_standalone.sh: works from scripts/ and from the project, writes its log, returns the exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import train_case

ROOT = Path(__file__).parents[2]


def standalone(*words, cwd, logs):
    environment = os.environ | {"LOG_MF_PATH": str(logs), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    script = "run_standalone.sh" if cwd.name == "scripts" else "scripts/run_standalone.sh"
    command = ["bash", script, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("folder", [ROOT, ROOT / "scripts"], ids=["project", "scripts"])
def test_it_trains_and_logs_from_either_folder(tmp_path, folder):
    data = train_case.write_data(tmp_path / "d.mindrecord")
    path = train_case.write_config(tmp_path / "c.yaml", data, tmp_path / "out", use_parallel=True)
    done = standalone(path, 0, "train", "--options", "runner_config.epochs=1", cwd=folder, logs=tmp_path / "log")
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / "log" / "rank_0" / "mindformer.log").read_text()
    assert "{ Epoch:[  1/  1], step:[    6/    6], loss:[" in log
    assert train_case.newest(tmp_path / "out").name == "t_rank_0-1_6.ckpt"


def test_the_exit_status_and_the_message_of_a_failed_run_come_through(tmp_path):
    path = train_case.write_config(tmp_path / "c.yaml", tmp_path / "none", tmp_path / "out")
    done = standalone(path, 0, "train", cwd=ROOT, logs=tmp_path / "log")
    assert done.returncode == 4
    assert "codellama: error: " in (tmp_path / "log" / "rank_0" / "mindformer.log").read_text()
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "three arguments are needed, 0 were given"),
        (["none.yaml", 0, "train"], "none.yaml does not exist"),
        (["configs/codellama/pretrain_codellama_tiny.yaml", "x", "train"], "DEVICE_ID is a whole number"),
        (["configs/codellama/pretrain_codellama_tiny.yaml", 0, "export"], "STATUS is train, finetune, eval or predict"),
    ],
)
def test_wrong_arguments_are_told_with_the_usage(tmp_path, words, message):
    done = standalone(*words, cwd=ROOT, logs=tmp_path / "log")
    assert done.returncode == 2
    assert message in done.stderr
    assert "bash run_standalone.sh CONFIG DEVICE_ID STATUS" in done.stderr
