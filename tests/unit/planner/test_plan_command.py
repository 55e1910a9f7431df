"""`codellama plan`: what it prints, and the code it ends with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plan_case import CONFIGS

from mindformers_codellama.cli.main import main
from mindformers_codellama.cluster.device_ips import simulated_device_ips
from mindformers_codellama.cluster.rank_table_make import make_rank_table
from mindformers_codellama.cluster.rank_table_merge import merge_rank_tables

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "plan_34b_16.json"
"""Made by `codellama plan configs/codellama/finetune_codellama_34b_910b.yaml --ranks 16 --layout 2x4x2 --json`."""


def codellama_plan(capsys, name, *words):
    code = main(["plan", str(CONFIGS / f"{name}.yaml"), *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_is_the_golden_one(capsys):
    _, out, _ = codellama_plan(capsys, "finetune_codellama_34b_910b", "--ranks", 16, "--layout", "2x4x2", "--json")
    found, expected = json.loads(out), json.loads(GOLDEN.read_text())
    for answer in (found, expected):
        answer.pop("config")
    assert found == expected


def test_a_plan_that_fits_ends_with_0_and_says_so(capsys):
    code, out, _ = codellama_plan(capsys, "finetune_codellama_34b_910b", "--ranks", 32)
    assert code == 0
    assert "4x4x2 (data x model x stage), as in the file: fits" in out
    assert "nothing here was measured on Ascend" in out


def test_a_plan_that_does_not_fit_ends_with_9_the_reason_and_what_would(capsys):
    code, out, _ = codellama_plan(capsys, "finetune_codellama_34b_910b", "--ranks", 8)
    assert code == 9
    assert "device memory: stage 0 needs" in out
    assert "no layout of 8 ranks fits; 16 ranks do" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--ranks", "12", "--layout", "1x3x4"], 9, "model_parallel: got 3, must divide n_kv_heads (8). Fix: write one of 1, 2, 4, 8"),
        (["--ranks", "64", "--layout", "1x1x64"], 9, "pipeline_stage: got 64, must be at most num_layers (48)"),
        (["--ranks", "16", "--layout", "2x2x2"], 9, "--layout: 2x2x2 has 8 ranks, there are 16."),
        (["--ranks", "16", "--layout", "8,2"], 2, "--layout: got '8,2'. Fix: write data x model x stage degrees, such as 2x4x2."),
        (["--ranks", "0"], 2, "--ranks: got 0, must be at least 1."),
        (["--ranks", "8", "--device-memory", "lots"], 2, "--device-memory: got 'lots'."),
        (["--ranks", "8", "--rank-table", "no/such.json"], 9, "no/such.json"),
    ],
)
def test_what_cannot_be_planned_is_refused(capsys, words, code, message):
    found, out, err = codellama_plan(capsys, "finetune_codellama_34b_910b", *words)
    assert found == code
    assert message in err
    assert not out


def write_table(folder, servers, devices):
    ids = list(range(devices))
    tables = [make_rank_table(f"10.0.0.{server + 1}", ids, simulated_device_ips(ids)) for server in range(servers)]
    path = folder / "table.json"
    path.write_text((merge_rank_tables(tables) if servers > 1 else tables[0]).as_text())
    return path


def test_a_rank_table_gives_the_ranks_and_their_servers(capsys, tmp_path):
    table = write_table(tmp_path, 8, 4)
    _, out, _ = codellama_plan(capsys, "finetune_codellama_34b_910b", "--rank-table", table, "--layout", "1x8x4")
    assert "on 32 ranks" in out
    assert "its ranks are on several servers" in out


def test_a_rank_table_of_another_number_of_ranks_is_refused(capsys, tmp_path):
    code, _, err = codellama_plan(capsys, "finetune_codellama_34b_910b", "--rank-table", write_table(tmp_path, 1, 8), "--ranks", 16)
    assert code == 9
    assert "has 8 ranks, --ranks says 16." in err


def test_the_table_of_stages_adds_up(capsys):
    _, out, _ = codellama_plan(capsys, "run_codellama_70b_910b", "--ranks", 64, "--json")
    found = json.loads(out)
    assert [stage["ranks"] for stage in found["stages"]] == [[8 * n, 8 * n + 7] for n in range(8)]
    assert sum(stage["layers"] for stage in found["stages"]) == 80
    for stage in found["stages"]:
        parts = sum(stage[name] for name in ("parameters", "gradients", "optimizer", "activations", "kv_cache"))
        assert stage["peak"] <= parts + sum(stage["buffers"].values())
        assert stage["needed"] > stage["peak"]


def test_neither_mindspore_nor_numpy_is_imported():
    program = (
        "import sys; from mindformers_codellama.cli.main import main; "
        f"main(['plan', {str(CONFIGS / 'run_codellama_70b_910b.yaml')!r}, '--ranks', '1024']); "
        "sys.exit(bool({'mindspore', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "on 1024 ranks" in done.stdout
