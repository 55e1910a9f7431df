"""Where completions end, whole and as they are streamed."""

import ast

import pytest
from eval_case import HUMANEVAL

from mindformers_codellama.evaluation.problems import read_problems
from mindformers_codellama.evaluation.truncation import FunctionEnd, truncated

PROMPT = 'def f(x):\n    """Say it\'s x."""\n'
CASES = {
    "body alone": ("    return x\n", "    return x\n"),
    "another function": ("    return x\n\n\ndef g():\n    pass\n", "    return x\n"),
    "a test at the margin": ("    return x\nassert f(1) == 1\n", "    return x\n"),
    "a comment at the margin": ("    return x\n# done\n", "    return x\n"),
    "a nested function": ("    def g():\n        return x\n    return g()\nprint(1)\n", "    def g():\n        return x\n    return g()\n"),
    "a string over lines": ('    y = """\nat the margin\n"""\n    return y\nif x:\n', '    y = """\nat the margin\n"""\n    return y\n'),
    "brackets over lines": ("    return [\n1,\n]\nf(2)\n", "    return [\n1,\n]\n"),
    "head written again": ("def f(x):\n    return x\n\nf(1)\n", "def f(x):\n    return x\n"),
    "imports and head again": ("import os\n\n\ndef f(x):\n    return x\n\n\ndef g(): pass\n", "import os\n\n\ndef f(x):\n    return x\n"),
    "a helper before the head": (
        "def g():\n    return 1\n\ndef f(x):\n    return g()\nx\n",
        "def g():\n    return 1\n\ndef f(x):\n    return g()\n",
    ),
    "a comment first": ("# as told\n    return x\nf(1)\n", "# as told\n    return x\n"),
    "no end": ("    return x", "    return x"),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_a_completion_ends_behind_its_function(name):
    given, wanted = CASES[name]
    assert truncated(PROMPT, given, "f") == wanted


def test_a_prompt_that_ends_within_a_line_is_gone_on_with():
    assert truncated("def f(x):\n    return ", "x\nf(1)\n", "f") == "x\n"


@pytest.mark.parametrize("name", CASES)
def test_streamed_a_character_at_a_time_the_end_is_the_same_and_nothing_beyond_was_certain(name):
    given, wanted = CASES[name]
    rule, certain, found = FunctionEnd(PROMPT, "f"), 0, -1
    for size in range(1, len(given) + 1):
        found = rule.end(given[:size], certain)
        if found >= 0:
            break
        certain = max(certain, size - rule.held_back(given[:size]))
    assert (given if found < 0 else given[:found] + "\n") == wanted
    assert certain <= len(wanted)


@pytest.mark.skipif(not HUMANEVAL.exists(), reason="needs HumanEval.jsonl.gz (CODELLAMA_SHARED_DATA)")
def test_canonical_solutions_are_kept_and_what_follows_them_is_not():
    for problem in read_problems(HUMANEVAL).tasks.values():
        kept = truncated(problem.prompt, problem.canonical_solution + "\n\ndef another():\n    pass\n", problem.entry_point)
        assert ast.dump(ast.parse(problem.prompt + kept)) == ast.dump(ast.parse(problem.prompt + problem.canonical_solution)), (
            problem.task_id
        )
