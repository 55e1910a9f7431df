"""HumanEval itself: every canonical solution passes, none that is broken does, in bubblewrap, two at a time."""

import pytest
from eval_case import HUMANEVAL

from mindformers_codellama.evaluation.problems import read_problems
from mindformers_codellama.evaluation.report import report
from mindformers_codellama.evaluation.samples import Place
from mindformers_codellama.evaluation.sandbox import Limits
from mindformers_codellama.evaluation.score import score

pytestmark = pytest.mark.skipif(not HUMANEVAL.exists(), reason="needs HumanEval.jsonl.gz (CODELLAMA_SHARED_DATA)")
LIMITS = Limits(cpu_seconds=10, wall_seconds=60)
"""Generous: what is told apart here is right and wrong, on machines of any load."""


def broken(problem) -> str:
    """The canonical solution, wrapped so that each answer is another value of the same kind."""
    turn = "lambda x: (not x) if isinstance(x, bool) else x + 1 if isinstance(x, (int, float)) else "
    turn += "[None] if x in (None, [], (), '', {}) else None"
    name = problem.entry_point
    return f"{problem.canonical_solution}\n_right, _other = {name}, {turn}\n\n\ndef {name}(*given):\n    return _other(_right(*given))\n"


def rates(sandbox, tmp_path, problems, make) -> dict:
    samples = {Place(task, 0): make(problem) for task, problem in problems.tasks.items()}
    return report(score(samples, problems, sandbox, LIMITS, tmp_path / f"{make.__name__}_results.jsonl", workers=2), {})


def canonical(problem) -> str:
    return problem.canonical_solution


@pytest.mark.parametrize("count", [10, pytest.param(164, marks=pytest.mark.slow)])
def test_canonical_solutions_pass_and_broken_ones_do_not(sandbox, tmp_path, count):
    problems = read_problems(HUMANEVAL).first(count)
    assert len(problems.tasks) == count
    right, wrong = rates(sandbox, tmp_path, problems, canonical), rates(sandbox, tmp_path, problems, broken)
    assert (right["pass@1"], right["passed"]) == (1.0, count)
    assert (wrong["pass@1"], wrong["passed"]) == (0.0, 0)


@pytest.mark.parametrize("task", ["HumanEval/32", "HumanEval/38", "HumanEval/50"])
def test_problems_whose_tests_use_functions_of_the_prompt_pass(sandbox, tmp_path, task):
    problems = read_problems(HUMANEVAL)
    samples = {Place(task, 0): problems.tasks[task].canonical_solution}
    assert score(samples, problems, sandbox, LIMITS, tmp_path / "r.jsonl") == {Place(task, 0): "passed"}
