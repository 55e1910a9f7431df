"""Two results side by side, against scipy and by hand."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from mindformers_codellama.cli.main import main
from mindformers_codellama.errors import DataError
from mindformers_codellama.evaluation.comparison import compare
from mindformers_codellama.evaluation.comparison_text import markdown, number, picture
from mindformers_codellama.evaluation.paired import bootstrap_interval, discordance, mcnemar_exact
from mindformers_codellama.evaluation.pass_at_k import wilson_interval
from mindformers_codellama.evaluation.results import read_result


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (9, 2), (7, 7), (30, 51), (200, 260)])
def test_mcnemar_is_the_binomial_test(first, second):
    expected = stats.binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("passed", "tasks"), [(54, 164), (0, 10), (10, 10), (1, 3)])
def test_wilson_is_that_of_scipy(passed, tasks):
    expected = stats.binomtest(passed, tasks).proportion_ci(method="wilson")
    assert wilson_interval(passed / tasks, tasks) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_bootstrap_is_that_of_scipy():
    rng = np.random.default_rng(3)
    first, second = (rng.random(150) < rate for rate in (0.6, 0.45))
    expected = stats.bootstrap(
        (first.astype(float), second.astype(float)),
        lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        paired=True,
        n_resamples=10_000,
        method="percentile",
        random_state=1,
    ).confidence_interval
    # both ends are quantiles of 10000 draws; their standard error is near 0.0012 for a spread of 0.055
    assert bootstrap_interval(first.astype(float), second.astype(float)) == pytest.approx((expected.low, expected.high), abs=0.007)


def test_the_bootstrap_of_weighted_sums_is_that_of_the_ratio():
    rng = np.random.default_rng(4)
    weights = rng.integers(1, 9, 80).astype(float)
    first, second = (weights * rng.normal(level, 0.1, 80) for level in (2.0, 1.5))
    low, high = bootstrap_interval(first, second, weights)
    whole = (first.sum() - second.sum()) / weights.sum()
    assert low < whole < high
    residual = (first - second) - whole * weights
    error = math.sqrt((residual**2).sum()) / weights.sum()  # linearised standard error of a ratio
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    assert bootstrap_interval(first, second, weights) == (low, high)


def test_tasks_are_counted_by_who_solved_them():
    counts = discordance([True, True, False, False, True], [True, False, True, False, False])
    assert (counts.both, counts.only_first, counts.only_second, counts.neither) == (1, 2, 1, 1)
    assert counts.p_value == 1.0


def folder(path, passed, *, samples=1, suite="humaneval", **made):
    path.mkdir()
    lines = [
        {"task_id": f"T/{task}", "completion": "", "passed": bool(passed[task]), "number": number}
        for task in range(len(passed))
        for number in range(samples)
    ]
    (path / "samples.jsonl_results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = {"suite": suite, "pass@1": float(np.mean(passed)), "made": {"data_sha256": "d", "model": "m", **made}}
    (path / "report.json").write_text(json.dumps(report))
    return path


@pytest.fixture
def two(tmp_path):
    """The tables of the page this repeats: 54 and 53 of 164, here with 50 in common."""
    tasks = np.arange(164)
    first = folder(tmp_path / "910B3", tasks < 54, name="codellama_34b_instruct", decoding={"seed": 0}, device="Ascend")
    second = folder(tmp_path / "A100", (tasks < 50) | (tasks >= 161), name="codellama_34b_instruct", decoding={"seed": 1}, device="Ascend")
    report = json.loads((first / "report.json").read_text()) | {"published": {"source": "a paper, table 2", "pass@1": 0.415}}
    (first / "report.json").write_text(json.dumps(report))
    return first, second


def test_two_devices_give_the_table_of_the_page(two):
    found = compare([read_result(path) for path in two])
    text = markdown(found)
    assert "|  | 910B3 | A100 | 910B3 / A100 |" in text
    assert "| tasks | 164 | 164 | 1 |" in text
    assert "| passed | 54 | 53 | 1.0189 |" in text
    assert "| pass@1 | 0.3293 | 0.3232 | 1.0189 |" in text
    assert "| published | 0.4150 |  |  |" in text
    assert "Published: a paper, table 2." in text
    assert "| 910B3 - A100 | 164 | +0.0061 |" in text
    assert f"| 50 | 4 | 3 | 107 | {number(stats.binomtest(3, 7).pvalue)} |" in text
    assert "| decoding.seed | 0 | 1 |" in text
    assert "device" not in text
    assert "Wilson, 95 %" in text
    assert "paired percentile bootstrap over tasks, 10000 draws, seed 0" in text
    assert picture(found)[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_command_writes_all_three_forms(two, tmp_path, capsys):
    words = ["eval", "compare", *map(str, two), "--names", "NPU", "GPU", "--output", str(tmp_path / "o")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "o/comparison.md").read_text() == out
    found = json.loads((tmp_path / "o/comparison.json").read_text())
    assert [one["name"] for one in found["columns"]] == ["NPU", "GPU"]
    assert found["pairs"][0]["p_value"] == pytest.approx(stats.binomtest(3, 7).pvalue)
    assert main(words) == 3
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_three_results_are_each_compared_with_the_first(two, tmp_path):
    third = folder(tmp_path / "other", np.zeros(164, bool))
    found = compare([read_result(path) for path in (*two, third)])
    assert [(one["first"], one["second"], one["ratio"]) for one in found["pairs"]] == [
        ("910B3", "A100", pytest.approx(54 / 53)),
        ("910B3", "other", None),
    ]
    assert markdown(found).count("910B3 / ") == 2


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("report.json", '{"suite": "humaneval", "made": [1]}', "is no report"),
        ("report.json", '{"suite": "humaneval", "published": 1}', "is no report"),
        ("report.json", '{"suite": "humaneval", "tasks": 3}', "tells of 3 tasks, but only 2 are in the file"),
        ("samples.jsonl_results.jsonl", '{"task_id": "T/0", "passed": true, "number": null}\n', ":1: has a number that is none"),
    ],
)
def test_damaged_results_are_refused(tmp_path, name, text, says):
    path = folder(tmp_path / "a", [True, False])
    (path / name).write_text(text)
    with pytest.raises(DataError, match=says):
        read_result(path)


@pytest.mark.parametrize("samples", ["a.jsonl", "a.jsonl.gz", "a.txt"])
def test_scored_samples_are_found_whatever_their_ending(tmp_path, samples):
    path = folder(tmp_path / "a", [True, False])
    (path / "samples.jsonl_results.jsonl").rename(path / f"{samples}_results.jsonl")
    report = path / f"{samples.rpartition('.')[0]}_report.json"
    report.write_text(json.dumps({"suite": "humaneval", "tasks": 2, "made": {"samples": f"elsewhere/{samples}"}}))
    assert read_result(report).values == {"T/0": 1.0, "T/1": 0.0}


def test_several_samples_of_a_task_have_no_mcnemar(tmp_path):
    one, other = (folder(tmp_path / name, [True, False, True], samples=2) for name in "ab")
    found = compare([read_result(one), read_result(other)])
    assert ("p_value" in found["pairs"][0], found["columns"][0]["samples"]) == (False, 6)
    assert "McNemar" not in markdown(found).split("interval:")[0]


def test_perplexities_are_compared_by_window(tmp_path):
    for name, losses in (("f32", (20.0, 30.0)), ("int4", (22.0, 33.0))):
        (tmp_path / name).mkdir()
        lines = [{"window": f"a:{at}", "loss": loss, "tokens": 10 * (at + 1)} for at, loss in enumerate(losses)]
        (tmp_path / name / "windows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / name / "report.json").write_text(json.dumps({"suite": "perplexity", "perplexity": 1.0, "made": {}}))
    found = compare([read_result(tmp_path / name) for name in ("f32", "int4")])
    assert [one["loss"] for one in found["columns"]] == pytest.approx([50 / 30, 55 / 30])
    assert found["pairs"][0]["difference"] == pytest.approx(-5 / 30)
    assert found["pairs"][0]["perplexity_ratio"] == pytest.approx(math.exp(-5 / 30))
    assert "| perplexity | 5.2945 | 6.2547 |" in markdown(found)
    assert "| windows | 2 | 2 | 1 |" in markdown(found)


def test_answers_of_choices_are_compared_by_question(tmp_path):
    for name, letters in (("a", "ABCD"), ("b", "ABAA")):
        (tmp_path / name).mkdir()
        lines = [{"question_id": at, "truth": "ABCD"[at], "predict": letter} for at, letter in enumerate(letters)]
        (tmp_path / name / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / name / "report.json").write_text(json.dumps({"suite": "mmlu", "accuracy": 0.5, "made": {}}))
    found = compare([read_result(tmp_path / name) for name in "ab"])
    assert ([one["accuracy"] for one in found["columns"]], found["pairs"][0]["only_first"]) == ([1.0, 0.5], 2)


def test_scored_samples_of_others_are_compared_by_their_reports(tmp_path):
    for name, passed in (("x", True), ("y", False)):
        (tmp_path / f"{name}_report.json").write_text(json.dumps({"suite": "humaneval", "pass@1": 1.0, "made": {}}))
        (tmp_path / f"{name}.jsonl_results.jsonl").write_text(json.dumps({"task_id": "T/0", "passed": passed}) + "\n")
    found = compare([read_result(tmp_path / f"{name}_report.json") for name in "xy"])
    assert [(one["name"], one["pass@1"]) for one in found["columns"]] == [("x", 1.0), ("y", 0.0)]


def test_what_cannot_be_compared_is_refused(two, tmp_path, capsys):
    first = read_result(two[0])
    for name, made, says in (
        ("suite", {"suite": "mbpp"}, "is of mbpp .*, 910B3 of humaneval"),
        ("data", {"data_sha256": "e"}, "was made with other data than 910B3"),
    ):
        with pytest.raises(DataError, match=says):
            compare([first, read_result(folder(tmp_path / name, [True], **made))])
    for path, says in (
        (tmp_path / "none", "none: cannot be read: No such file"),
        (tmp_path, "report.json: cannot be read"),
    ):
        with pytest.raises(DataError, match=says):
            read_result(path)
    (two[1] / "samples.jsonl_results.jsonl").write_text('{"task_id": "T/0"}\n')
    with pytest.raises(DataError, match="results.jsonl:1: has no passed"):
        read_result(two[1])
    (two[1] / "samples.jsonl_results.jsonl").unlink()
    with pytest.raises(DataError, match="it belongs to the report beside it"):
        read_result(two[1])
    assert main(["eval", "compare", str(two[0])]) == 2
    assert "nothing to compare with" in capsys.readouterr().err
    assert main(["eval", "compare", str(two[0]), str(two[0]), "--names", "a"]) == 2
    assert "got 1 names for 2 results" in capsys.readouterr().err
