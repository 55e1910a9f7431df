"""`codellama performance` and its script: cases of a dry run, and what wrong words are answered with."""

import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_codellama.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "run_performance.sh"


@pytest.fixture(autouse=True)
def no_limit(monkeypatch):
    monkeypatch.delenv("MAX_SEQ_LENGTH", raising=False)


def dry_run(capsys, *words: str) -> list[str]:
    assert main(["performance", "some/model", "--dry-run", *words]) == 0
    return capsys.readouterr().out.splitlines()


def script(*words: str, **environment: str) -> subprocess.CompletedProcess:
    settings = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, **environment}
    return subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, timeout=60, env=settings)


def test_the_default_is_36_cases_for_each_of_five_batch_sizes(capsys):
    lines = dry_run(capsys)
    assert lines[0] == "batch 1, 32 in, 32 out"
    assert lines[179] == "batch 32, 1024 in, 1024 out"
    assert lines[180:] == ["180 cases, 36 for each of 5 batch sizes", "writes multibatch_performance_model_devicecpu.csv"]


def test_single_pairs_and_ranges_are_chosen_as_in_the_script_of_the_seed(capsys):
    assert dry_run(capsys, "--multicase", "0", "--batch", "2", "--seqlen_in", "16", "--seqlen-out", "8")[0] == "batch 2, 16 in, 8 out"
    lines = dry_run(capsys, "--set_case_pair", "1", "--multi_batch_size", "[1]")
    assert lines[:4] == ["batch 1, 256 in, 64 out", "batch 1, 256 in, 256 out", "batch 1, 512 in, 512 out", "batch 1, 1024 in, 1024 out"]
    assert "4 cases" in dry_run(capsys, "--batch", "1", "--seqlen-in-range", "3,5", "--seqlen-out-range", "[0,2]")[4]


def test_case_pairs_name_the_files_of_the_model_tests(capsys):
    lines = dry_run(capsys, "--case-pairs", "[[4096,4096]]", "--batch", "[1,8]", "--model-type", "pa_bf16", "--model-name", "codellama")
    assert lines[:2] == ["batch 1, 4096 in, 4096 out", "batch 8, 4096 in, 4096 out"]  # the longest pair is the limit
    place = "results/CPU/performance_test/performance/bf16/codellama"
    assert f"writes {place}/performance_pa_batch1_tp1_result.csv" in lines
    assert f"writes {place}/performance_pa_batch8_tp1_formatted_result.csv" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-seq-length", "512"], "--max-seq-length: is 512, but a case has 1024 + 1024 = 2048 tokens and 19 more"),
        (["--batch", "1,x"], "--batch: got '1,x', must be whole numbers like [1,4,8]"),
        (["--batch", "0"], "every batch has at least 1 row"),
        (["--multicase", "2"], "--multicase: got '2', must be 0 or 1"),
        (["--seqlen-in-range", "[5]"], "--seqlen-in-range: got [5], must be [FIRST,LAST]"),
        (["--set-case-pair", "1", "--seqlen-in-pair", "[1,2]"], "--seqlen-out-pair: has 4 lengths, --seqlen-in-pair has 2"),
        (["--case-pairs", "[[1,2,3]]"], "--case-pairs: got '[[1,2,3]]', must be pairs of lengths"),
        (["--case-pairs", "[[1,-2]]"], "must be pairs of lengths"),
        (["--case-pairs", "1,2"], "must be pairs of lengths"),
        (["--multicase", "0", "--seqlen-in", "many"], "--seqlen-in: got 'many', must be a whole number of at least 1"),
        (["--model-name", "a/b"], "it becomes part of a file name"),
        (["--world-size", "0"], "--world-size: got 0, must be at least 1"),
    ],
)
def test_wrong_cases_end_with_one_clear_line(capsys, words, message):
    assert main(["performance", "some/model", "--dry-run", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_the_limit_of_the_environment_is_named(capsys, monkeypatch):
    monkeypatch.setenv("MAX_SEQ_LENGTH", "100")
    assert main(["performance", "m", "--dry-run", "--multicase", "0"]) == 2
    assert "MAX_SEQ_LENGTH: is 100, but a case has 128 + 128 = 256 tokens" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_told(capsys):
    assert main(["performance", "no/such/model", "--batch", "1"]) == 2
    assert "no/such/model: is no file, no directory and no model name" in capsys.readouterr().err


def test_the_script_takes_the_words_and_knobs_of_the_speed_scripts():
    done = script(
        "--performance", "1", "d9", "multi_batch_size=[1,4]", "set_case_pair=1", "--dry-run", input_dir="W", model_name="LLAMA2-7B"
    )
    assert done.returncode == 0, done.stderr
    assert "8 cases, 4 for each of 2 batch sizes" in done.stdout
    if not Path("/dev/davinci_manager").exists():
        assert "d9 names an Ascend chip, but there is none here" in done.stderr
        assert "writes multibatch_performance_LLAMA2-7B_devicecpu.csv" in done.stdout


def test_the_script_takes_the_words_of_the_model_tests():
    done = script("pa_fp16", "performance", "[[2048,2048],[256,256]]", "1", "codellama", "W", "8", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["batch 1, 2048 in, 2048 out", "batch 1, 256 in, 256 out"]
    assert "fp16/codellama/performance_pa_batch1_tp8_result.csv" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "begin with --performance or with a MODEL_TYPE"),
        (["--performence"], "begin with --performance or with a MODEL_TYPE, got '--performence'"),
        (["--performance", "two"], "WORLD_SIZE is a whole number of at least 1, got 'two'"),
        (["--performance", "1", "d7"], "DEVICE_TYPE is d9, d3 or cpu, got 'd7'"),
        (["--performance", "1", "d9", "seqlen=3"], "unknown knob 'seqlen'"),
        (["--performance", "1", "d9"], "input_dir is not set"),
        (["pa_int8", "performance"], "MODEL_TYPE is pa_fp16, pa_bf16 or pa_fp32, got 'pa_int8'"),
        (["pa_fp16", "full_BoolQ"], "the test mode is performance, got 'full_BoolQ'"),
        (["pa_fp16", "performance", "[[1,1]]", "1"], "seven arguments are needed, 4 were given"),
    ],
)
def test_the_script_refuses_what_it_does_not_know(words, message):
    done = script(*words)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_script_explains_itself():
    done = script("--help")
    assert done.returncode == 0
    assert "bash scripts/run_performance.sh --performance 1 cpu" in done.stdout
