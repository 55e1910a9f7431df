"""`codellama eval humaneval-infilling`: tasks made of problems, right and wrong middles, a model of random weights."""

import json
from pathlib import Path

import pytest

from mindformers_codellama.cli.main import main
from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.evaluation.sandbox import open_sandbox
from mindformers_codellama.pipelines import open_model
from mindformers_codellama.text.infilling import prefers_suffix_first

DATA = Path(__file__).resolve().parents[1] / "unit" / "evaluation" / "problems.jsonl"
NEW = 6


@pytest.fixture
def needs_sandbox():
    try:
        open_sandbox()
    except EnvironmentFault as error:
        pytest.skip(str(error))


def evaluate(capsys, *words) -> tuple[int, str, str]:
    code = main(["eval", "humaneval-infilling", *map(str, words)])
    return (code, *capsys.readouterr())


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def tasks(tmp_path, capsys):
    path = tmp_path / "single.jsonl"
    code, out, err = evaluate(capsys, "--make", path, "--from-humaneval", DATA, "--benchmark", "single-line")
    assert (code, out) == (0, f"4 tasks in {path}\n"), err
    return path


def test_what_stood_there_passes_and_what_did_not_fails(needs_sandbox, tasks, tmp_path, capsys):
    records = lines(tasks)
    samples = tmp_path / "s.jsonl"
    answers = [one["canonical_solution"] for one in records] + ["    raise KeyError\n"] * len(records)
    right_and_wrong = [{"task_id": one["task_id"], "completion": text} for one, text in zip(records * 2, answers, strict=True)]
    samples.write_text("".join(json.dumps(line) + "\n" for line in right_and_wrong))
    code, out, err = evaluate(capsys, "--samples", samples, "--data", tasks, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["pass@1"], found["exact_match"], found["samples"], found["passed"]) == (0.5, 0.5, 8, 4)
    results = lines(tmp_path / "s.jsonl_results.jsonl")
    assert sorted((one["number"], one["passed"]) for one in results) == [(0, True)] * 4 + [(1, False)] * 4


@pytest.mark.parametrize(("order", "spm"), [((), None), (("--suffix-first",), True), (("--order", "psm"), False)])
def test_a_model_is_asked_as_by_infill(reuse, folder, tasks, tmp_path, capsys, order, spm):
    words = (folder, "--data", tasks, "--output", tmp_path / "o", "--max-new-tokens", NEW, "--batch-size", 2, "--generate-only", *order)
    code, _, err = evaluate(capsys, *words)
    assert code == 0, err
    opened = open_model.open_model(folder, load_checkpoint="")
    for task, sample in zip(lines(tasks), lines(tmp_path / "o/samples.jsonl"), strict=True):
        asked = {"suffix_first": spm, "until": "eot", "max_new_tokens": NEW, "tokenizer": opened.tokenizer}
        assert sample["completion"] == opened.model.infill(task["prompt"], task["suffix"], **asked)
        by_cursor = prefers_suffix_first(task["prompt"], task["suffix"])
        assert sample["order"] == ("spm" if (by_cursor if spm is None else spm) else "psm")
    made = json.loads((tmp_path / "o/settings.json").read_text())
    assert (made["benchmark"], made["stop_rule"][:3]) == ("single-line", "eot")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["m", "--output", "o"], 2, "needs --data or --from-humaneval, and not both"),
        (["m", "--output", "o", "--from-humaneval", DATA], 2, "--benchmark: goes with --from-humaneval"),
        (["--make", "a", "m", "--from-humaneval", DATA], 2, "--make: takes --from-humaneval and --benchmark alone"),
        (["--make", "there", "--from-humaneval", DATA, "--benchmark", "multi-line"], 4, "there: exists already"),
        (["m", "--output", "o", "--data", DATA], 4, "problems.jsonl:1: has no suffix"),
        (["m", "--output", "o", "--data", "none"], 4, "give a file of github.com/openai/human-eval-infilling"),
        (["codellama_34b", "--output", "o", "--data", "single.jsonl", "--generate-only"], 6, "was not trained to fill in the middle"),
    ],
)
def test_what_cannot_be_done_is_refused(tasks, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(tasks.parent)
    Path("there").write_text("")
    found, _, err = evaluate(capsys, *words)
    assert (found, says in err) == (code, True), err
