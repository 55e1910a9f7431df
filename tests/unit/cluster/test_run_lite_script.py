"""scripts/run_lite.sh before anything runs: what it starts, and how a wrong call is answered."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "run_lite.sh"


def run(folder, *words, **env):
    environment = {**os.environ, "PYTHON": sys.executable, "CODELLAMA_LAUNCH_FLAGS": "--dry-run", **env}
    return subprocess.run(
        ["bash", str(SCRIPT), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out" / "export").mkdir(parents=True)
    (tmp_path / "out" / "export" / "manifest.json").write_text(json.dumps({"world_size": 2}))
    return tmp_path


def test_it_starts_one_process_for_each_exported_rank(folder):
    done = run(folder, "out", "--generated_time", "3", START_DEVICE_ID="4", CODELLAMA_LAUNCH_FLAGS="--dry-run --device-target CPU")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("rank ") and "RANK_ID=" in line]
    for rank, line in enumerate(lines):
        assert f"RANK_ID={rank} " in line
        assert f"DEVICE_ID={4 + rank}" in line
        assert "infer --model_dir out --distributed True --do_sample False --is_sample_acceleration False --add_special_tokens True" in line
        assert "--generated_time 3 --predict_data 'def bubble_sort(arr):\\n'" in line, "the page's prompt when none is given"
        assert line.endswith(f"rank_{rank}.log")
    assert len(lines) == 2
    assert "run model 1 on rank:1,device 5..." in done.stdout


def test_lite_passes_the_rank_table_on(folder):
    devices = [{"device_id": str(i), "device_ip": f"192.168.100.{i}", "rank_id": str(i)} for i in range(2)]
    table = {"version": "1.0", "server_count": "1", "server_list": [{"server_id": "127.0.0.1", "device": devices}], "status": "completed"}
    (folder / "table.json").write_text(json.dumps(table))
    (folder / "lite.ini").write_text("[ascend_context]\nprovider=ge\nrank_table_file=table.json\n")
    done = run(folder, "out", "--engine", "lite", "--config_path", "lite.ini", "--predict_data", "x")
    assert done.returncode == 0, done.stderr
    assert f"RANK_TABLE_FILE={folder / 'table.json'} RANK_ID=1" in done.stdout
    assert "MS_ROLE" not in done.stdout, "HCCL needs no scheduler"
    assert "bubble_sort" not in done.stdout


def test_a_rank_table_beside_its_lite_ini_is_found(folder):
    devices = [{"device_id": str(i), "device_ip": f"192.168.100.{i}", "rank_id": str(i)} for i in range(2)]
    table = {"version": "1.0", "server_count": "1", "server_list": [{"server_id": "127.0.0.1", "device": devices}], "status": "completed"}
    (folder / "conf").mkdir()
    (folder / "conf" / "table.json").write_text(json.dumps(table))
    (folder / "conf" / "lite.ini").write_text("[ascend_context]\nprovider=ge\nrank_table_file = table.json \r\n")
    done = run(folder, "out", "--engine=lite", "--config_path=conf/lite.ini", "--predict_data", "x")
    assert done.returncode == 0, done.stderr
    assert f"RANK_TABLE_FILE={folder / 'conf' / 'table.json'} " in done.stdout


@pytest.mark.parametrize("words", [("--predict_data", "own"), ("--predict_data=own",), ("--predict-data=own",)])
def test_a_prompt_is_not_replaced_by_the_pages(folder, words):
    done = run(folder, "out", *words)
    assert done.returncode == 0, done.stderr
    assert "own" in done.stdout
    assert "bubble_sort" not in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "the export directory is missing"),
        (("nowhere",), "the manifest of the export directory nowhere/export/manifest.json does not exist"),
        (("damaged",), "manifest.json is damaged"),
    ],
)
def test_a_wrong_call_is_answered_with_the_usage(folder, words, said):
    (folder / "damaged" / "export").mkdir(parents=True)
    (folder / "damaged" / "export" / "manifest.json").write_text("{}")
    done = run(folder, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "bash run_lite.sh MINDIR_DIR [FLAGS of run_infer_main.py]" in done.stderr


def test_a_device_that_is_no_number_is_refused(folder):
    assert "START_DEVICE_ID is a whole number" in run(folder, "out", START_DEVICE_ID="first").stderr


def test_it_explains_itself(tmp_path):
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert "Not run on Ascend." in done.stdout
