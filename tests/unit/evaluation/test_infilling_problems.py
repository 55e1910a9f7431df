"""HumanEval's solutions with a part taken out, by the published rules."""

import json

import pytest
from eval_case import HUMANEVAL, PROBLEMS

from mindformers_codellama.errors import CodeLlamaError
from mindformers_codellama.evaluation.infilling_problems import BENCHMARKS, benchmark_of, make_infilling_problems, read_infilling_problems
from mindformers_codellama.evaluation.problems import Problem, Problems, read_problems
from mindformers_codellama.evaluation.published import published

PROBLEM = Problem(
    task_id="T/9",
    prompt='def top(n):\n    """Top."""\n',
    entry_point="top",
    test="",
    canonical_solution="    a = n\n\n    b = a\n    return b\n",
)


def made(problem, benchmark):
    return make_infilling_problems(Problems(HUMANEVAL, "0", {problem.task_id: problem}), benchmark).tasks


def test_single_lines_are_those_with_text_by_their_number():
    tasks = made(PROBLEM, "single-line")
    assert [(name, task.canonical_solution, task.suffix) for name, task in tasks.items()] == [
        ("SingleLineInfilling/T/9/L0", "    a = n\n", "\n    b = a\n    return b\n"),
        ("SingleLineInfilling/T/9/L2", "    b = a\n", "    return b\n"),
        ("SingleLineInfilling/T/9/L3", "    return b\n", ""),
    ]
    assert [task.prompt.removeprefix(PROBLEM.prompt) for task in tasks.values()] == ["\n", "    a = n\n\n", "    a = n\n\n    b = a\n"]


def test_runs_of_lines_begin_and_end_with_text():
    tasks = made(PROBLEM, "multi-line")
    assert [name.rpartition("/")[2] for name in tasks] == ["L0_L0", "L0_L2", "L0_L3", "L2_L2", "L2_L3", "L3_L3"]
    assert tasks["MultiLineInfilling/T/9/L0_L2"].canonical_solution == "    a = n\n\n    b = a\n"


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_parts_make_the_program_again(benchmark):
    found = make_infilling_problems(PROBLEMS, benchmark)
    assert benchmark_of(found) == benchmark
    for task in found.tasks.values():
        whole = PROBLEMS.tasks["/".join(task.task_id.split("/")[1:3])]
        assert task.canonical_solution
        assert "".join(task.source(task.canonical_solution).split()) == "".join((whole.prompt + whole.canonical_solution).split())
        assert (task.entry_point, task.test) == (whole.entry_point, whole.test)


def test_random_spans_are_the_same_every_time_and_of_all_lengths():
    one = made(PROBLEM, "random-span")
    assert one == made(PROBLEM, "random-span")
    assert len(one) == 10
    assert len({task.hole for task in one.values()}) > 5
    assert all(task.source(task.canonical_solution) == PROBLEM.prompt + PROBLEM.canonical_solution for task in one.values())


@pytest.mark.skipif(not HUMANEVAL.exists(), reason="HumanEval is not at hand")
def test_humaneval_gives_as_many_tasks_as_openai_published():
    problems = read_problems(HUMANEVAL)
    assert len(make_infilling_problems(problems, "single-line").tasks) == 1033
    assert len(make_infilling_problems(problems, "multi-line").tasks) == 5815
    assert len(make_infilling_problems(problems, "random-span").tasks) == 1640
    assert len(make_infilling_problems(problems, "random-span-light").tasks) == 164


def test_a_file_without_the_suffix_is_refused_by_line_and_field(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [{"task_id": "t/0", "prompt": "def f():\n", "suffix": "1", "canonical_solution": "    return ", "test": "", "entry_point": "f"}]
    lines.append({name: value for name, value in lines[0].items() if name not in ("suffix", "canonical_solution")} | {"task_id": "t/1"})
    lines.append(lines[0] | {"task_id": "t/2", "suffix": 1})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(CodeLlamaError) as caught:
        read_infilling_problems(path)
    assert f"{path}:2: has no canonical_solution, suffix." in str(caught.value)
    assert f"{path}:3: suffix must be text." in str(caught.value)
    path.write_text(json.dumps(lines[0]) + "\n")
    (task,) = read_infilling_problems(path).tasks.values()
    assert task.source("    return ") == "def f():\n    return 1"


def test_published_figures_are_those_of_the_order_and_the_suite():
    spm = published("humaneval-infilling", "codellama_7b", benchmark="single-line", suffix_first=True)
    assert (spm["pass@1"], spm["source"][-8:]) == (pytest.approx(0.833), "table 14")
    assert published("humaneval-infilling", "codellama_13b", benchmark="random-span", suffix_first=False)["pass@1"] == pytest.approx(0.636)
    assert published("humaneval-infilling", "codellama_7b", benchmark="single-line", suffix_first=None) == {}
    assert published("humaneval-infilling", "codellama_34b", benchmark="single-line", suffix_first=True) == {}
    assert published("mbpp", "codellama_34b_python")["pass@10"] == pytest.approx(0.764)
    assert published("humaneval", "codellama_70b_instruct")["pass@1"] == pytest.approx(0.678)
    assert published("humaneval", "") == {}
