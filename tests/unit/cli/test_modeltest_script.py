"""scripts/modeltest/run.sh: the ATB model tests' words onto the commands of this project, and what is refused."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "modeltest" / "run.sh"


@pytest.fixture
def run(tmp_path):
    """The script with a Python that prints its arguments, one a line."""
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)

    def call(*words, **variables) -> tuple[int, list[str], str]:
        environment = os.environ | {"PYTHON": str(python)} | variables
        command = ["bash", str(SCRIPT), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=environment)
        return done.returncode, done.stdout.splitlines()[2:], done.stderr

    return call


def test_humaneval_in_the_words_of_the_guides(run):
    code, words, err = run("pa_fp16", "full_HumanEval", 1, "codellama", "WEIGHTS", 8, "--data", "H.jsonl")
    assert (code, "8 chips are named; one process holds the model" in err) == (0, True), err
    output = "results/CPU/precision_test/full_HumanEval/fp16/codellama"
    expected = ["eval", "humaneval", "WEIGHTS", "--batch-size", "1", "--output", output, "--dtype", "float16", "--data", "H.jsonl"]
    assert words == expected


def test_shots_positions_and_optional_words_have_their_places(run, tmp_path):
    (tmp_path / "dataset/full/MMLU").mkdir(parents=True)
    code, words, err = run("pa_bf16", "full_MMLU", 5, "[4]", "llama", "base", "W", "trust_remote_code", 1, 2048, "--limit", 3)
    output = "results/CPU/precision_test/full_MMLU/bf16/llama"
    expected = ["eval", "mmlu", "W", "--data", "dataset/full/MMLU", "--batch-size", "4", "--shots", "5", "--output", output]
    assert (code, words) == (0, [*expected, "--weights", "bfloat16", "--seq-length", "2048", "--limit", "3"]), err
    (tmp_path / "there/full/CEval").mkdir(parents=True)
    assert run("pa_fp32", "full_CEval", 0, 1, "llama", "W", 1, DATASET_DIR="there")[1][1:5] == ["ceval", "W", "--data", "there/full/CEval"]


def test_the_data_of_humaneval_is_found_by_its_names(run, tmp_path):
    (tmp_path / "dataset/full/HumanEval").mkdir(parents=True)
    words = ("pa_fp16", "full_HumanEval", 1, "codellama", "WEIGHTS", 1)
    code, _, err = run(*words)
    assert (code, "no data: give --data PATH, or put the dataset into dataset/full/HumanEval" in err) == (2, True)
    (tmp_path / "dataset/full/HumanEval/human-eval.jsonl").touch()
    assert run(*words)[1][4] == "dataset/full/HumanEval/human-eval.jsonl"


def test_performance_in_the_words_of_the_guides(run):
    pairs = "[[2048,2048],[1024,1024],[512,512],[256,256]]"
    code, words, err = run("pa_fp16", "performance", pairs, 1, "codellama", "WEIGHTS", 8)
    assert (code, words[:5]) == (0, ["launch", "--ranks", "8", "--", "performance"]), err
    for flag, value in (("--case-pairs", pairs), ("--batch", "1"), ("--model-name", "codellama"), ("--model-type", "pa_fp16")):
        assert words[words.index(flag) + 1] == value
    assert "WEIGHTS" in words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "MODEL_TYPE is pa_fp16, pa_bf16 or pa_fp32, got ''"),
        (["fa", "full_BoolQ"], "MODEL_TYPE is pa_fp16, pa_bf16 or pa_fp32, got 'fa'"),
        (["pa_fp16"], "a test mode is missing"),
        (
            ["pa_fp16", "full_BoolQ", 1, "m", "W", 1],
            "'full_BoolQ' is a mode of the model tests that is not here; there are performance, full_Hu",
        ),
        (["pa_fp16", "performance_maxbs", "[[1,1]]"], "'performance_maxbs' is a mode of the model tests that is not here"),
        (["pa_fp16", "full_Human"], "unknown test mode 'full_Human'"),
        (["pa_fp16", "full_MMLU", "five", 1, "m", "W", 1], "SHOTS is a whole number, got 'five'"),
        (["pa_fp16", "full_HumanEval", "[1,4]", "m", "W", 1], "BATCH is a whole number of at least 1, got '1,4'"),
        (["pa_fp16", "full_HumanEval", 1, "m"], "words are missing behind 'full_HumanEval'"),
        (["pa_fp16", "full_HumanEval", 1, "m", "W"], "words are missing behind 'full_HumanEval'"),
        (["pa_fp16", "full_HumanEval", 1, "m", "chat", "W", 1], "'chat' does not say which chat: write base"),
        (["pa_fp16", "full_HumanEval", 1, "m", "lora", "f", "W", 1], "'lora': adapters by request"),
        (
            ["pa_fp16", "full_HumanEval", 1, "m", "W", "table.json", 16, 2, 0, "ip"],
            "CHIPS is a whole number of at least 1, got 'table.json'",
        ),
        (["pa_fp16", "full_HumanEval", 1, "m", "W", 1, "[1,1]"], "'[1,1]': ways to cut the model"),
        (["pa_fp16", "full_HumanEval", 1, "m", "W", 1, 4096, "more"], "unknown word 'more'"),
        (["pa_fp16", "performance", "[[1,1]]", 1, 4, "m", "W", 1], "'4': prompts are read in one go"),
    ],
)
def test_what_is_not_here_is_refused(run, words, says):
    code, _, err = run(*words)
    assert (code, says in err) == (2, True), err
    assert "bash run.sh MODEL_TYPE full_HumanEval BATCH MODEL" in err


def test_help_explains_every_word():
    done = subprocess.run(["bash", str(SCRIPT), "--help"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    for word in (
        "MODEL_TYPE",
        "SHOTS",
        "CASE_PAIRS",
        "BATCH",
        "WEIGHTS",
        "CHIPS",
        "MAX_POSITIONS",
        "DATASET_DIR",
        "bash scripts/modeltest/run.sh",
    ):
        assert word in done.stdout
