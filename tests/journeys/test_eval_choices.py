"""`codellama eval mmlu` and `ceval` against transformers' logits, on a model of random weights; stopped runs; the page runs too."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from os.path import commonprefix
from pathlib import Path

import pytest
from generation_case import answers

from mindformers_codellama.cli.main import main
from mindformers_codellama.cli.sdk_test import sdk_main
from mindformers_codellama.evaluation.choices.ask import Asking, ask
from mindformers_codellama.evaluation.choices.prompts import prompt_text
from mindformers_codellama.evaluation.choices.questions import read_exam
from mindformers_codellama.evaluation.choices.suites import CEVAL, MMLU
from mindformers_codellama.pipelines import open_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "multiple_choice.md"
UNIT = ROOT / "tests" / "unit" / "evaluation"
SUITES = {"mmlu": (MMLU, UNIT / "mmlu"), "ceval": (CEVAL, UNIT / "ceval")}
ROOM = 256
"""Positions of the model of these tests."""


def evaluate(capsys, suite, *words, data=None) -> tuple[int, str, str]:
    code = main(["eval", suite, *map(str, words), "--data", str(data or SUITES[suite][1])])
    return (code, *capsys.readouterr())


def fitting(tokenizer, suite, data, room):
    """(question, ids, shots) of every prompt, its last examples left out one by one; ids by sentencepiece alone."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    exam = read_exam(data, suite)
    for question in exam.questions:
        for shots in (5, 4, 3, 2, 1, 0):
            ids = [1, *model.encode(prompt_text(suite, question, exam.examples[question.subject][:shots]))]
            if len(ids) <= room:
                yield question, ids, shots
                break


@pytest.mark.parametrize(("name", "space"), [("mmlu", "▁"), ("ceval", "")], ids=["mmlu", "ceval"])
def test_answers_by_logit_are_those_of_transformers(reuse, folder, theirs, tokenizer, tmp_path, capsys, name, space):
    """Log-probabilities within 2e-5: float32 sums of both sides differ in order (1e-6 of logits around 10), rounded to 1e-6 in the file."""
    import torch

    code, out, err = evaluate(capsys, name, folder, "--output", tmp_path, "--batch-size", 4, "--json")
    assert code == 0, err
    found = json.loads(out)
    letters = [tokenizer.get_vocab()[space + letter] for letter in "ABCD"]
    assert found["made"]["letter_ids"] == letters
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    right = 0
    for line, (question, ids, shots) in zip(lines, fitting(tokenizer, *SUITES[name], ROOM), strict=True):
        with torch.no_grad():
            logprobs = torch.log_softmax(theirs(torch.tensor([ids])).logits[0, -1].double(), -1)[letters]
        assert line["logprobs"] == pytest.approx(logprobs.tolist(), abs=2e-5)
        assert (line["question_id"], line["shots"], line["prompt_tokens"]) == (question.number, shots, len(ids))
        assert line["predict"] == "ABCD"[int(logprobs.argmax())]
        right += line["predict"] == question.answer
    assert len({line["predict"] for line in lines}) > 1
    assert (found["right"], found["accuracy_questions"]) == (right, right / len(lines))
    assert sum(found["fewer_shots"].values()) == sum(line["shots"] < 5 for line in lines) > 0


def test_the_common_beginning_of_prompts_is_read_once(reuse, folder, tokenizer):
    """In whole pages of 64 tokens, which is how far a prompt begins as an earlier one does; from batch to batch."""
    opened = open_model.open_model(folder, load_checkpoint="")
    decoder = opened.model.decoder(use_past=True)
    exam = read_exam(UNIT / "mmlu", MMLU)
    questions = exam.chosen(("jurisprudence",))
    prompts = [ids for question, ids, _ in fitting(tokenizer, MMLU, UNIT / "mmlu", ROOM) if question in questions]
    known = [max((len(commonprefix([prompt, other])) // 64 for other in prompts[:at]), default=0) for at, prompt in enumerate(prompts)]
    total, least = sum(map(len, prompts)), sum(len(prompt) - 64 * pages for prompt, pages in zip(prompts, known, strict=True))
    assert least < 0.7 * total
    before = decoder.tokens_computed
    ask(Asking(decoder=decoder, tokenizer=opened.tokenizer, config=opened.generation, by="logit", batch_size=1), exam, questions, None)
    assert decoder.tokens_computed - before <= least


def test_answers_by_generation_are_those_of_transformers(reuse, folder, theirs, tokenizer, tmp_path, capsys):
    words = ("--answer-by", "generation", "--max-new-tokens", 6, "--limit", 2)
    assert evaluate(capsys, "mmlu", folder, "--output", tmp_path, *words)[0] == 0
    lines = [line.split(",") for line in (tmp_path / "cache.csv").read_text().splitlines()]
    prompts = {question.number: ids for question, ids, _ in fitting(tokenizer, *SUITES["mmlu"], ROOM - 6)}
    assert len(lines) == 9
    for number, _, _, predicted in lines:
        ids = prompts[int(number)]
        start = len(tokenizer.decode(ids, skip_special_tokens=True))
        text = tokenizer.decode(answers(theirs, ids, 6), skip_special_tokens=True)[start:]
        assert predicted == next((char.upper() for char in text if char.isascii() and char.isalpha()), "-1")


def test_a_stopped_run_goes_on_to_the_same_files(reuse, folder, tmp_path, capsys):
    words = (folder, "--output", tmp_path, "--batch-size", 4)
    assert evaluate(capsys, "mmlu", *words)[0] == 0
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(whole) == [
        "answers.jsonl",
        "cache.csv",
        "report.json",
        "settings.json",
        "summary_classes_acc.json",
        "summary_subject_acc.json",
    ]
    for name in ("report.json", "summary_classes_acc.json", "summary_subject_acc.json"):
        (tmp_path / name).unlink()
    (tmp_path / "cache.csv").write_bytes(whole["cache.csv"][:100])  # six lines and a half
    code, out, _ = evaluate(capsys, "mmlu", *words, "--dry-run")
    assert out == f"15 of 15 questions in 5 subjects\n6 are answered, 9 would be asked in {tmp_path}\n"
    before = (tmp_path / "cache.csv").stat().st_ino
    assert evaluate(capsys, "mmlu", *words)[0] == 0
    assert (tmp_path / "cache.csv").read_bytes() == whole["cache.csv"]
    assert (tmp_path / "cache.csv").stat().st_ino == before
    for name in ("settings.json", "report.json", "summary_classes_acc.json", "summary_subject_acc.json"):
        assert (tmp_path / name).read_bytes() == whole[name], name
    asked = (tmp_path / "cache.csv").stat().st_mtime_ns
    assert evaluate(capsys, "mmlu", *words, "--subjects", "anatomy")[0] == 0
    assert (tmp_path / "cache.csv").stat().st_mtime_ns == asked
    assert list(json.loads((tmp_path / "summary_subject_acc.json").read_text())) == ["anatomy"]
    code, _, err = evaluate(capsys, "mmlu", *words, "--shots", 4)
    assert (code, "holds samples that were made with another" in err) == (2, True), err


def test_test_questions_of_ceval_become_a_submission(reuse, folder, tmp_path, capsys):
    code, out, err = evaluate(capsys, "ceval", folder, "--split", "test", "--output", tmp_path)
    assert (code, "6 answers are in" in out) == (0, True), err
    found = json.loads((tmp_path / "submission.json").read_text())
    assert {name: list(letters) for name, letters in found.items()} == {
        "accountant": ["0"],
        "college_physics": ["0", "1"],
        "law": ["0", "1", "2"],
    }
    assert {letter for letters in found.values() for letter in letters.values()} <= set("ABCD")
    assert not list(tmp_path.glob("summary*"))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--shots", "-1"], 2, "--shots: got -1, must be at least 0"),
        (["--limit", "0"], 2, "--limit: got 0"),
        (["--batch-size", "0"], 2, "--batch-size: got 0"),
        (["--subjects", "anatomi"], 2, "'anatomi' has no questions here. Fix: write anatomy."),
        (["--shots", "6"], 4, "anatomy_dev.csv: has 5 examples, 6 are asked for. Fix: --shots 5"),
        (["--answer-by", "generation", "--max-new-tokens", "256"], 6, "leaves no room for a prompt"),
    ],
)
def test_what_cannot_be_done_is_refused(reuse, folder, tmp_path, capsys, words, code, says):
    found, _, err = evaluate(capsys, "mmlu", folder, "--output", tmp_path / "o", *words)
    assert (found, says in err) == (code, True), err
    assert not (tmp_path / "o" / "cache.csv").exists()


def test_a_bad_line_is_refused_before_a_model_is_opened(tmp_path, capsys):
    shutil.copytree(UNIT / "mmlu", tmp_path / "d")
    path = tmp_path / "d/test/sociology_test.csv"
    path.write_text("Smallest group?,1,2,3,4\n")
    code, _, err = evaluate(capsys, "mmlu", "no_model", "--output", tmp_path / "o", data=tmp_path / "d")
    assert (code, f"{path}:1: has 5 fields, must have 6" in err) == (4, True), err


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    *commands, tool, script = (shlex.split(line) for line in block.splitlines())
    monkeypatch.chdir(tmp_path)
    shutil.copytree(UNIT / "mmlu", "mmlu_test/data")
    shutil.copytree(UNIT / "ceval", "ceval-exam")
    Path("sdk_config.ini").write_text("[model]\nmodel_path=codellama_tiny\n[precision]\nmode=mmlu\nwork_dir=./mmlu_test\n")
    for program, *words in commands:
        assert (program, main(words)) == ("codellama", 0), words
    assert (tool[:2], sdk_main(tool[2:])) == (["python", "tools/sdk_test.py"], 0)
    environment = {**os.environ, "PYTHON": sys.executable, "CODELLAMA_LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [script[0], ROOT / script[1], *script[2:]], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert len(Path("mmlu_tiny/cache.csv").read_text().splitlines()) == 15
    assert len(Path("written/cache.csv").read_text().splitlines()) == 9
    assert Path("ceval_test/submission.json").exists()
    assert json.loads(Path("ceval_tiny/report.json").read_text())["accuracy_over"] == "subjects"
    for place in ("mmlu_test/test_result", "results/CPU/precision_test/full_MMLU/fp32/codellama"):
        names = {path.name for path in Path(place).iterdir()}
        assert names >= {"cache.csv", "summary_classes_acc.json", "summary_subject_acc.json"}
    assert Path("results/CPU/precision_test/full_MMLU/fp32/codellama/cache.csv").read_bytes() == Path("mmlu_tiny/cache.csv").read_bytes()
