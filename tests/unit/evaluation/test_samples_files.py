"""Files of problems, samples and verdicts: what is refused, and what a killed run leaves."""

import gzip
import json

import pytest
from eval_case import ADD, PROBLEMS, RIGHT, TINY, WRONG

from mindformers_codellama.errors import CodeLlamaError, DataError
from mindformers_codellama.evaluation.generate_samples import batches, missing_places
from mindformers_codellama.evaluation.judge import Verdict
from mindformers_codellama.evaluation.problems import read_problems
from mindformers_codellama.evaluation.samples import LineFile, Place, read_samples, read_verdicts, results_path, verdict_record
from mindformers_codellama.evaluation.sandbox import Limits, Sandbox
from mindformers_codellama.evaluation.score import score


def sample(task: str, completion: str = RIGHT) -> str:
    return json.dumps({"task_id": task, "completion": completion}) + "\n"


def test_compressed_and_plain_files_are_the_same(tmp_path):
    packed = tmp_path / "problems.jsonl.gz"
    packed.write_bytes(gzip.compress(TINY.read_bytes()))
    assert read_problems(packed).tasks == PROBLEMS.tasks
    assert read_problems(packed).sha256 == PROBLEMS.sha256


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no problem"),
        ("{}", ":1: has no task_id, prompt, entry_point, test"),
        ("\n[1]", ":2: is no JSON object"),
        ("{", ":1: is not JSON"),
        (json.dumps(vars(ADD) | {"test": 3}), "test must be text"),
        (json.dumps(vars(ADD) | {"entry_point": "f()"}), "is no name of a function"),
        (json.dumps(vars(ADD) | {"suffix": "    return c\n"}), ":1: has a suffix: it is a task of filling in the middle"),
        ((json.dumps(vars(ADD)) + "\n") * 2, ":2: task Tiny/0 is there already"),
    ],
)
def test_a_file_that_is_no_problems_is_refused_with_its_line(tmp_path, text, says):
    path = tmp_path / "p.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_problems(path)
    assert says in str(caught.value)


def test_a_damaged_archive_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(TINY.read_bytes())[:-20])
    with pytest.raises(DataError, match="is a damaged gzip file"):
        read_problems(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_problems(tmp_path / "no.jsonl")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (sample("Tiny/9"), "task 'Tiny/9' is not in problems.jsonl"),
        ('{"task_id": "Tiny/0"}', "is no sample"),
        ("half", ":1: is not JSON"),
        (sample("Tiny/0"), "has no sample of 2 of 3 tasks, the first is Tiny/1"),
    ],
)
def test_samples_that_do_not_fit_are_refused(tmp_path, text, says):
    path = tmp_path / "s.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CodeLlamaError) as caught:
        read_samples(path, PROBLEMS)
    assert says in str(caught.value)


def test_a_half_line_of_a_killed_run_is_cut_off_and_gone_on_with(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(sample("Tiny/1") + sample("Tiny/0") + '{"task_id": "Ti', encoding="utf-8")
    there = read_samples(path, PROBLEMS, partial=True)
    assert list(there) == [Place("Tiny/1", 0), Place("Tiny/0", 0)]
    with LineFile(path) as file:
        file.write([{"task_id": "Tiny/2", "completion": "x"}])
    assert read_samples(path, PROBLEMS) == there | {Place("Tiny/2", 0): "x"}


def test_numbers_of_samples_do_not_depend_on_the_run():
    all_at_once = dict((place, number) for number, place in missing_places(PROBLEMS, PROBLEMS, 3, {}))
    assert sorted(all_at_once.values()) == list(range(9))
    there = {Place("Tiny/0", 0): "", Place("Tiny/1", 0): ""}
    assert all(all_at_once[place] == number for number, place in missing_places(PROBLEMS.first(2), PROBLEMS, 2, there))


def test_a_batch_holds_numbers_that_follow_each_other():
    places = [(number, Place("Tiny/0", number)) for number in (0, 1, 2, 5, 6, 8)]
    assert [[number for number, _ in batch] for batch in batches(places, 2)] == [[0, 1], [2], [5, 6], [8]]


@pytest.fixture
def judged(monkeypatch):
    """What was run, by completion; nothing runs."""
    seen = []

    def judge(problem, completion, sandbox, limits, *, stop):
        seen.append(completion)
        return Verdict("passed" if completion == RIGHT else "failed: AssertionError")

    monkeypatch.setattr("mindformers_codellama.evaluation.score.judge", judge)
    return seen


def test_what_was_judged_is_not_judged_again_unless_the_sample_or_the_limits_changed(tmp_path, judged):
    samples = {Place("Tiny/0", 0): RIGHT, Place("Tiny/0", 1): WRONG}
    path, sandbox = results_path(tmp_path / "samples.jsonl"), Sandbox(bwrap="")
    wanted = {Place("Tiny/0", 0): "passed", Place("Tiny/0", 1): "failed: AssertionError"}
    assert score(samples, PROBLEMS, sandbox, Limits(), path, workers=2) == wanted
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert {"task_id", "completion", "result", "passed"} <= set(first)
    path.write_bytes(path.read_bytes()[:-9])  # killed within the last line
    judged.clear()
    assert score(samples, PROBLEMS, sandbox, Limits(), path) == wanted
    assert len(judged) == 1
    judged.clear()
    assert score(samples | {Place("Tiny/0", 1): "    return 0\n"}, PROBLEMS, sandbox, Limits(), path)
    assert judged == ["    return 0\n"]
    judged.clear()
    score(samples, PROBLEMS, sandbox, Limits(cpu_seconds=9), path)
    assert len(judged) == 2


def test_a_file_of_verdicts_holds_those_of_the_present_samples_alone(tmp_path, judged):
    path, sandbox = results_path(tmp_path / "samples.jsonl"), Sandbox(bwrap="")
    one, two, other = Place("Tiny/0", 0), Place("Tiny/0", 1), Place("Tiny/1", 0)
    score({one: RIGHT, two: WRONG, other: WRONG}, PROBLEMS, sandbox, Limits(), path)
    score({one: RIGHT}, PROBLEMS, sandbox, Limits(), path, every={one: RIGHT, other: WRONG})
    assert len(judged) == 3
    assert set(read_places(path)) == {one, other}
    score({one: WRONG}, PROBLEMS, sandbox, Limits(), path, every={one: WRONG, other: WRONG})
    score({one: WRONG}, PROBLEMS, sandbox, Limits(cpu_seconds=9), path)
    path.write_text('{"task_id": "Tiny/0", "passed": true}\n[1]\n' + path.read_text())  # not ours: not touched
    score({one: RIGHT}, PROBLEMS, sandbox, Limits(), path)
    assert path.read_text().startswith('{"task_id": "Tiny/0", "passed": true}\n[1]\n')
    assert read_places(path)[2:] == [one]


def read_places(path):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [Place(one["task_id"], one["number"]) if "number" in one else None for one in records]


def test_lines_that_are_no_verdicts_do_not_count(tmp_path):
    path, place = tmp_path / "r.jsonl", Place("Tiny/0", 0)
    good = json.dumps(verdict_record(place, RIGHT, "passed", {}))
    path.write_text(f'[1]\nhalf\n{{"task_id": [], "number": 0}}\n{good}\n', encoding="utf-8")
    assert read_verdicts(path, {place: RIGHT}, {}) == {place: "passed"}


def test_two_runs_do_not_write_one_file(tmp_path):
    with LineFile(tmp_path / "s.jsonl") as file:
        file.write([{"a": 1}])
        with pytest.raises(DataError, match="is being written by another run"):
            LineFile(tmp_path / "s.jsonl")
        file.write([{"a": 2}])
    with LineFile(tmp_path / "s.jsonl") as file:
        file.write([{"a": 3}])
    assert (tmp_path / "s.jsonl").read_text().count("\n") == 3
