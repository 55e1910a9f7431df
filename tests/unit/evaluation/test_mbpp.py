"""MBPP's two forms, its prompts, and its assertions in the sandbox."""

import json
from collections import Counter

import pytest

from mindformers_codellama.errors import CodeLlamaError, DataError, EnvironmentFault
from mindformers_codellama.evaluation.answer_code import fenced_code, tagged_code
from mindformers_codellama.evaluation.ask_mbpp import shots_prompt, zero_shot_prompt
from mindformers_codellama.evaluation.judge import judge
from mindformers_codellama.evaluation.mbpp import examples, read_mbpp, split_of
from mindformers_codellama.evaluation.sandbox import Limits, open_sandbox

LIMITS = Limits(wall_seconds=60)


def task(number, text, code, *tests, **others):
    record = {"text": text, "code": code, "task_id": number, "test_setup_code": "", "test_list": list(tests), "challenge_test_list": []}
    return record | others


NODE = "class Node:\n    def __init__(self, value):\n        self.value, self.next = value, None\n"
LENGTH = NODE + "def length(node):\n    return 0 if node is None else 1 + length(node.next)\n"
TASKS = [
    task(2, "Add two.", "def add(a, b):\r\n  return a + b", "assert add(1, 2) == 3"),
    task(3, "Negate.", "def negate(a):\n    return -a\n", "assert negate(1) == -1", "assert negate(0) == 0"),
    task(4, "Double.", "def double(a):\n    return 2 * a", "assert double(4) == 8"),
    task(
        11,
        "Count letters.",
        "from collections import Counter\ndef letters(text):\n    return Counter(text)",
        "assert letters('abca') == {'a': 2, 'b': 1, 'c': 1}",
        "assert sorted(letters('b')) == ['b']",
        challenge_test_list=["assert letters('') == {}"],
    ),
    task(
        12,
        "Length of a list of nodes.",
        LENGTH,
        "assert length(first) == 2",
        "assert length(Node(1)) == 1 and not length(None)",
        test_setup_code="import math\r\nfirst = Node(1)\r\nfirst.next = Node(math.inf)",
    ),
    task(13, "Is it even?", "def check(n):\n    return n % 2 == 0", "assert check(4) == True", "assert (check(5)) == False"),
    task(
        511,
        "Root.",
        "def root(a):\n    return a ** 0.5",
        "assert math.isclose(root(2), 1.41421, rel_tol=0.001)",
        test_setup_code="import math",
    ),
]


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in TASKS))
    return read_mbpp(path)


@pytest.fixture(scope="module")
def sandbox():
    try:
        return open_sandbox()
    except EnvironmentFault as error:
        pytest.skip(str(error))


def test_the_parts_are_those_of_the_paper(problems):
    assert list(problems.tasks) == [f"MBPP/{one['task_id']}" for one in TASKS]
    assert [one.number for one in split_of(problems, "test").tasks.values()] == [11, 12, 13]
    assert list(split_of(problems, "validation").tasks) == ["MBPP/511"]
    with pytest.raises(DataError, match="no task of the split train: numbers 601 to 974"):
        split_of(problems, "train")


def test_the_sanitized_file_has_other_names(tmp_path, problems):
    entries = [
        {"source_file": "a", "task_id": one["task_id"], "prompt": one["text"], "code": one["code"], "test_list": one["test_list"]}
        | {"test_imports": [one["test_setup_code"]] if one["test_setup_code"] else []}
        for one in TASKS
    ]
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text(json.dumps(entries, indent=2))
    assert read_mbpp(path).tasks == problems.tasks


def test_the_prompt_is_that_of_the_paper(problems):
    assert shots_prompt(problems.tasks["MBPP/3"], examples(problems, 1)) == (
        "You are an expert Python programmer, and here is your task: Add two. Your code should pass these tests:\n\n"
        "assert add(1, 2) == 3\n[BEGIN]\ndef add(a, b):\n  return a + b\n[DONE]\n\n"
        "You are an expert Python programmer, and here is your task: Negate. Your code should pass these tests:\n\n"
        "assert negate(1) == -1\nassert negate(0) == 0\n[BEGIN]\n"
    )
    assert [one.number for one in examples(problems, 3)] == [2, 3, 4]
    assert zero_shot_prompt(problems.tasks["MBPP/4"]) == (
        "You are an expert Python programmer, and here is your task: Double.\nYour code should pass these tests:\n\n"
        "assert double(4) == 8\nYour code should start with a [PYTHON] tag and end with a [/PYTHON] tag."
    )


def test_right_programs_pass_and_wrong_ones_fail(problems, sandbox):
    for one in problems.tasks.values():
        assert judge(one, one.canonical_solution, sandbox, LIMITS).result == "passed", one.task_id
    wrong = {
        "MBPP/2": "def add(a, b):\n    return a - b",
        "MBPP/12": LENGTH.replace("0 if", "5 if"),
        "MBPP/13": "def check(n):\n    return True",
        "MBPP/11": "def other(text):\n    return {}",
    }
    for name, code in wrong.items():
        assert judge(problems.tasks[name], code, sandbox, LIMITS).result.startswith("failed"), name


def test_a_program_that_builds_the_inputs_does_not_see_what_is_expected(problems, sandbox):
    one = problems.tasks["MBPP/12"]
    assert "length(first) ==" not in one.tail
    assert "length(first)" in one.tail
    spy = LENGTH + "import sys\nclass Equal:\n    def __eq__(self, other):\n        return True\nlength = lambda node: Equal()\n"
    assert "no plain data" in judge(one, spy, sandbox, LIMITS).result
    assert judge(one, "import os\nos._exit(0)\n", sandbox, LIMITS).result.startswith("failed")


def test_challenges_are_run_when_asked_for(tmp_path, problems):
    path = problems.path
    hard = read_mbpp(path, challenge=True)
    assert ("letters('')" in hard.tasks["MBPP/11"].test, "letters('')" in problems.tasks["MBPP/11"].test) == (True, False)
    assert hard.sha256 != problems.sha256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"code": None}, "has no code. Fix: a task has task_id"),
        ({"task_id": "2"}, "task_id must be a whole number, got '2'"),
        ({"test_list": "assert add(1, 2) == 3"}, "test_list must be a list of texts"),
        ({"test_list": []}, "test_list is empty"),
        ({"test_list": ["assert add(1, 2 == 3"]}, r"test_list\[0\] is no Python"),
        ({"test_list": ["assert plus(1, 2) == 3"]}, "test_list calls no function that the code defines"),
        ({"code": "def add(a b)"}, "code is no Python"),
        ({"text": 5}, "text must be text, got int"),
    ],
)
def test_what_is_no_task_is_refused_by_line_and_field(tmp_path, change, says):
    record = {name: value for name, value in (TASKS[0] | change).items() if value is not None}
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(TASKS[1]) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(CodeLlamaError, match=f"m.jsonl:2: {says}"):
        read_mbpp(path)


def test_examples_that_are_not_there_are_told(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(TASKS[3]) + "\n")
    with pytest.raises(DataError, match="has no task 2, 3, 4: they are the examples of the prompt"):
        examples(read_mbpp(path), 3)


def test_code_is_found_in_an_answer():
    assert tagged_code(" Sure:\n[PYTHON]\ndef f():\n    pass\n[/PYTHON]\nthat is it") == "\ndef f():\n    pass\n"
    assert tagged_code("def f():\n    pass\n[/PYTHON]") == "def f():\n    pass\n"
    assert tagged_code("Here:\n```python\nx = 1\n```\n") == "x = 1\n"
    answer = "A helper:\n```\ndef g(): pass\n```\nand\n  ```python\ndef f(a):\n    return a\n```\nDone."
    assert fenced_code(answer, "f") == "def f(a):\n    return a\n"
    assert fenced_code(answer) == "def g(): pass\n"
    assert fenced_code("```python\ndef f(): pass") == "def f(): pass"
    assert fenced_code("def f(): pass") == "def f(): pass"
    assert Counter(fenced_code("no ``` fence").split()) == Counter(["no", "```", "fence"])
