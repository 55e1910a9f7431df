"""`codellama eval perplexity` against transformers in float64, on texts and on a mindrecord."""

import copy
import json
import math

import numpy as np
import pytest
from data_case import TINY, read_all

from mindformers_codellama.cli.main import main

TEXT = "".join(f"def add_{number}(a, b):\n    return a + b * {number}\n\n" for number in range(9))
BOUND = 2e-5
"""Relative difference of a mean loss: our logits are float32 products over 32 and 48 terms, whose errors do not all have one sign."""


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "code.py"
    path.write_text(TEXT)
    return path


def evaluate(capsys, *words) -> tuple[int, str, str]:
    code = main(["eval", "perplexity", *map(str, words)])
    return (code, *capsys.readouterr())


def losses(theirs, ids) -> np.ndarray:
    """Loss of every id but the first, by transformers in float64."""
    import torch

    with torch.no_grad():
        model = copy.deepcopy(theirs).double()
        logits = model(torch.tensor([list(map(int, ids))])).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(list(map(int, ids[1:]))), reduction="none").numpy()


@pytest.mark.parametrize(("window", "stride"), [(40, 40), (40, 15), (200, 200)])
def test_loss_of_a_text_is_that_of_transformers(reuse, folder, theirs, tokenizer, text, capsys, window, stride):
    ids = [1, *tokenizer.encode_pieces(TEXT, bos=False, eos=False)]
    expected, last = [], 0
    for start in range(0, len(ids), stride):
        end = min(start + window, len(ids) - 1)
        expected += losses(theirs, ids[start : end + 1])[last - start :].tolist() if end > last else []
        last = max(end, last)
    assert len(expected) == len(ids) - 1
    code, out, err = evaluate(capsys, folder, "--data", text, "--window", window, "--stride", stride, "--batch-size", 2, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["tokens"] == len(ids) - 1
    assert found["loss"] == pytest.approx(np.mean(expected), rel=BOUND)
    assert found["perplexity"] == pytest.approx(math.exp(np.mean(expected)), rel=1e-3)
    assert found["bits_per_byte"] == pytest.approx(sum(expected) / len(TEXT) / math.log(2), rel=BOUND)
    assert found["word_perplexity"] == pytest.approx(math.exp(sum(expected) / len(TEXT.split())), rel=1e-2)


def test_loss_of_a_mindrecord_is_that_of_transformers(reuse, folder, theirs, text, tmp_path, capsys):
    words = ("--text", text, "--tokenizer", TINY, "--seq-length", 32, "--output", tmp_path / "t.mindrecord")
    assert main(["data", "prepare", *map(str, words)]) == 0
    capsys.readouterr()
    expected = []
    for row in read_all(tmp_path / "t.mindrecord", ["input_ids"]):
        ids = row["input_ids"]
        expected += losses(theirs, ids[: len(ids) - ids.count(0)]).tolist()
    code, out, err = evaluate(capsys, folder, "--data", tmp_path / "t.mindrecord", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["tokens"], "bits_per_byte" in found) == (len(expected), False)
    assert found["loss"] == pytest.approx(np.mean(expected), rel=BOUND)


def test_a_killed_run_goes_on_to_the_same_report(reuse, folder, text, tmp_path, capsys):
    words = (folder, "--data", text, "--window", 40, "--stride", 20, "--json", "--output", tmp_path / "o")
    whole = evaluate(capsys, *words)[1]
    path = tmp_path / "o" / "windows.jsonl"
    lines = path.read_bytes()
    path.write_bytes(lines[:-9])
    assert evaluate(capsys, *words)[1] == whole
    assert path.read_bytes() == lines
    assert json.loads((tmp_path / "o" / "report.json").read_text()) == json.loads(whole)
    code, _, err = evaluate(capsys, *words, "--stride", 30)
    assert (code, "made with another stride" in err) == (2, True), err
    code, out, _ = evaluate(capsys, *words[:-3], "--limit", 2)
    assert (code, out.count("\n")) == (0, 1)
    assert "word" not in out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--data", "none.txt"], 4, "none.txt: no file found"),
        (["--data", "code.py", "--window", "999"], 2, "--window: got 999, must be from 1 to 256"),
        (["--data", "code.py", "--limit", "0"], 2, "--limit: got 0"),
        (["--data", "a.mindrecord", "code.py"], 2, "a mindrecord stands alone"),
        (["--data", "a.mindrecord", "--stride", "2"], 2, "rows of a mindrecord are its windows"),
        (["--data", "a.mindrecord"], 4, "a.mindrecord"),
    ],
)
def test_what_cannot_be_done_is_refused(reuse, folder, text, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(text.parent)
    found, _, err = evaluate(capsys, folder, *words)
    assert (found, says in err) == (code, True), err
