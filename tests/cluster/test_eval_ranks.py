"""`codellama eval mmlu` over two ranks goes on with what one process began, and answers as it does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import free_port

DATA = Path(__file__).resolve().parents[1] / "unit" / "evaluation" / "mmlu"


def evaluate(folder, output, *words, ranks=1):
    command = [sys.executable, "-m", "mindformers_codellama.cli.main"]
    if ranks > 1:
        command += ["launch", "--ranks", str(ranks), "--master", f"127.0.0.1:{free_port()}", "--"]
        words = (*words, "--world-size", str(ranks))
    command += ["eval", "mmlu", "codellama_tiny", "--data", str(DATA), "--output", output, "--batch-size", "2", "--json", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_two_ranks_go_on_and_answer_as_one(tmp_path):
    """Log-probabilities within 1e-5: both ranks' halves of a product are summed in another order, in float32, of values near 10."""
    alone = evaluate(tmp_path, "alone")
    evaluate(tmp_path, "shared", "--limit", 1)
    assert evaluate(tmp_path, "shared", ranks=2) == alone
    answers = []
    for output in ("alone", "shared"):
        lines = (tmp_path / output / "answers.jsonl").read_text().splitlines()
        answers.append({record["question_id"]: record for record in map(json.loads, lines)})
        assert len(lines) == len(answers[-1]) == len((tmp_path / output / "cache.csv").read_text().splitlines()) == 15
    for number, record in answers[0].items():
        other = answers[1][number]
        assert other.pop("logprobs") == pytest.approx(record.pop("logprobs"), abs=1e-5)
        assert other == record
