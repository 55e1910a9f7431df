"""`codellama eval infilling-lines` on a model of random weights: answers, resume, report, refusals."""

import json
from types import SimpleNamespace

import pytest

from mindformers_codellama.cli.main import main
from mindformers_codellama.evaluation.ask_middles import ask_to_continue
from mindformers_codellama.pipelines import open_model
from mindformers_codellama.pipelines.infilling import InfillingPipeline, InfillOptions
from mindformers_codellama.text.holes import Hole

NEW = 6
FILES = {"one.py": "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))\n", "two.py": "import os\n\nHOME = os.environ\n"}
LINES = {f"{name}:{at}": line for name, text in FILES.items() for at, line in enumerate(text.split("\n"), 1) if line}


@pytest.fixture
def sources(tmp_path):
    path = tmp_path / "src"
    path.mkdir()
    for name, text in FILES.items():
        (path / name).write_text(text)
    return path


def evaluate(capsys, *words) -> tuple[int, str, str]:
    code = main(["eval", "infilling-lines", *map(str, words)])
    return (code, *capsys.readouterr())


def test_a_killed_run_goes_on_to_the_same_answers_and_report(reuse, folder, sources, tmp_path, capsys):
    words = (folder, "--files", sources, "--max-new-tokens", NEW, "--batch-size", 2, "--json")
    code, out, err = evaluate(capsys, *words, "--output", tmp_path / "whole")
    assert code == 0, err
    samples = tmp_path / "whole" / "samples.jsonl"
    whole = samples.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert [json.loads(line)["task_id"] for line in lines] == list(LINES)
    opened = open_model.open_model(folder, load_checkpoint="")
    for line in lines:
        answer = json.loads(line)
        name, number = answer["task_id"].split(":")
        rows = FILES[name].split("\n")
        before, behind = "".join(f"{row}\n" for row in rows[: int(number) - 1]), "".join(f"\n{row}" for row in rows[int(number) :])
        asked = {"until": "line", "max_new_tokens": NEW, "tokenizer": opened.tokenizer}
        assert answer["completion"] == opened.model.infill(before, behind, **asked), answer
        assert answer["order"] == "spm"
    part = tmp_path / "part"
    assert evaluate(capsys, *words, "--output", part, "--limit", 2)[0] == 0
    (part / "samples.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:7])
    code, again, _ = evaluate(capsys, *words, "--output", part)
    assert (code, (part / "samples.jsonl").read_bytes(), json.loads(again)) == (0, whole, json.loads(out))
    assert json.loads(out)["exact_match"] == 0


def test_order_prefix_asks_with_the_text_before_alone(reuse, folder, sources, tmp_path, capsys):
    words = (folder, "--files", sources, "--max-new-tokens", NEW, "--order", "prefix", "--until", "eot", "--output", tmp_path)
    assert evaluate(capsys, *words)[0] == 0
    opened = open_model.open_model(folder, load_checkpoint="")
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {record["order"] for record in records} == {"prefix"}
    before = "def add(a, b):\n"
    [found] = [record["completion"] for record in records if record["task_id"] == "one.py:2"]
    ids = opened.tokenizer.encode(before)
    [row] = opened.model.generate([ids], max_new_tokens=NEW, do_sample=False, eos_token_id=[opened.tokenizer.eot_id, 2])
    assert found == opened.tokenizer.decode_infilling(row[len(ids) :]).rstrip("\ufffd")  # a character cut in two is left out


def test_rests_of_lines_are_asked_for_and_results_of_whole_lines_are_not_mixed_in(reuse, folder, sources, tmp_path, capsys):
    (sources / "three.py").write_text("first = 1\nimportant = first\n")
    words = (folder, "--files", sources / "three.py", "--take", "rest", "--max-new-tokens", NEW)
    for order in ("auto", "prefix"):
        assert evaluate(capsys, *words, "--order", order, "--output", tmp_path / order)[0] == 0
        results = [json.loads(line) for line in (tmp_path / order / "samples.jsonl_results.jsonl").read_text().splitlines()]
        assert [one["task_id"] for one in results] == ["three.py:1", "three.py:2"]
        lines = ["first = 1", "important = first"]
        assert all(line.endswith(one["line"]) and line != one["line"] for line, one in zip(lines, results, strict=True))
    code, _, err = evaluate(capsys, *words[:-4], "--output", tmp_path / "auto", "--max-new-tokens", NEW)
    assert (code, "another" in err) == (2, True), err


def test_without_the_suffix_a_cut_token_is_healed_as_it_is_with_it(reuse, folder):
    opened = open_model.open_model(folder, load_checkpoint="")
    pipe = InfillingPipeline(opened.model, opened.tokenizer, max_new_tokens=NEW)
    config = pipe.completed(pipe.generation)
    hole = Hole("import os\nx = os.environ.ge", "('a')\n")
    asked = ask_to_continue(pipe, "line", config)(SimpleNamespace(hole=hole))
    prompt = pipe.prompt(hole, InfillOptions(suffix_first=True), 128)
    assert prompt.healed
    assert (asked.rule.begins, asked.ids[1:]) == (prompt.healed, prompt.ids[prompt.ids.index(opened.tokenizer.middle_id) + 1 :])
    assert asked.record("t('a').b", "stop")["completion"] == "t", "up to what follows in the line"


def test_right_answers_are_all_exact_and_nothing_is_made_again(reuse, folder, sources, tmp_path, capsys):
    words = (folder, "--files", sources, "--max-new-tokens", NEW, "--output", tmp_path, "--json")
    assert evaluate(capsys, *words)[0] == 0
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    right = "".join(json.dumps(one | {"completion": LINES[one["task_id"]], "finish_reason": "eos"}) + "\n" for one in records)
    (tmp_path / "samples.jsonl").write_text(right)
    found = json.loads(evaluate(capsys, *words)[1])
    assert (found["exact_match"], found["edit_similarity"], found["ended_by_model"], found["files"]) == (1, 1, 1, 2)
    assert (tmp_path / "samples.jsonl").read_text() == right
    code, _, err = evaluate(capsys, *words, "--until", "eot")
    assert (code, "made with another stop_rule" in err) == (2, True), err
    (sources / "two.py").write_text("import os\n")
    code, _, err = evaluate(capsys, *words)
    assert (code, "two.py:3' is not in source files" in err) == (4, True), err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--files", "none"], 4, "none: no file found"),
        (["--files", "src", "--lines", "0"], 2, "--lines: got 0"),
        (["--files", "src", "--num-beams", "2"], 6, "num_beams"),
    ],
)
def test_what_cannot_be_done_is_refused(reuse, folder, sources, tmp_path, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(tmp_path)
    found, _, err = evaluate(capsys, folder, "--output", "o", *words)
    assert (found, says in err) == (code, True), err


def test_a_dry_run_writes_nothing(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = evaluate(capsys, "no_model", "--files", "src", "--output", "o", "--dry-run")
    assert (code, out) == (0, "5 of 5 lines; 0 are filled in, the others would be in o/samples.jsonl\n")
    assert not (tmp_path / "o").exists()
