"""HumanEval with a part of the solution taken out: OpenAI's files, or tasks made from HumanEval's canonical solutions.

Sources: Fried et al., arXiv 2204.05999 (single-line, multi-line); Bavarian et al., arXiv 2207.14255 (random spans); files of
github.com/openai/human-eval-infilling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mindformers_codellama.evaluation.problems import Problem, Problems, read_kind
from mindformers_codellama.text.holes import Hole

BENCHMARKS = {
    "single-line": "SingleLineInfilling",
    "multi-line": "MultiLineInfilling",
    "random-span": "RandomSpanInfilling",
    "random-span-light": "RandomSpanInfillingLight",
}
"""Benchmark to what its tasks' names begin with."""
FIX = "give a file of github.com/openai/human-eval-infilling, or make the tasks: --from-humaneval HumanEval.jsonl.gz."
SPANS = {"random-span": 10, "random-span-light": 1}
"""Tasks of each problem."""


@dataclass(frozen=True, kw_only=True)
class InfillingProblem(Problem):
    """A program with a part taken out."""

    suffix: str
    """What follows the part."""
    canonical_solution: str = field()
    """The part."""

    @property
    def hole(self) -> Hole:
        """The cursor."""
        return Hole(self.prompt, self.suffix)

    def source(self, completion: str) -> str:
        """The program of a sample."""
        return self.prompt + completion + self.suffix

    @property
    def helpers(self) -> str:
        """The whole right program: the prompt may end anywhere. The function under test takes its place among the tests."""
        return self.source(self.canonical_solution)


def read_infilling_problems(path: Path) -> Problems[InfillingProblem]:
    """Read one of OpenAI's files; `.gz` or plain.

    Raises:
        DataError: as `problems.read_kind`.
    """
    return read_kind(path, InfillingProblem, fix=FIX)


def benchmark_of(problems: Problems[InfillingProblem]) -> str:
    """Which of `BENCHMARKS` the names of the tasks say; empty when none."""
    found = {name.split("/")[0] for name in problems.tasks}
    return next((benchmark for benchmark, kind in BENCHMARKS.items() if found == {kind}), "")


def make_infilling_problems(problems: Problems[Problem], benchmark: str) -> Problems[InfillingProblem]:
    """Tasks by the published rules.

    `single-line`: every line of the canonical solution that is not blank. `multi-line`: every run of lines that begins and ends
    with such a line. From HumanEval these are 1033 and 5815 tasks, as many as in OpenAI's files, with the same names; as there, a part
    that begins the solution stands behind an empty line. `random-span`: between two places of the solution, drawn by the SHA-256 of
    problem and number; not the spans of OpenAI's file, which were drawn otherwise.

    Args:
        problems: HumanEval's.
        benchmark: one of `BENCHMARKS`.
    """
    makers = {"single-line": _single_lines, "multi-line": _line_runs}
    found: dict[str, InfillingProblem] = {}
    for problem in problems.tasks.values():
        tasks = makers[benchmark](problem) if benchmark in makers else _spans(problem, benchmark)
        found.update({task.task_id: task for task in tasks})
    digest = hashlib.sha256(f"{problems.sha256} {benchmark}".encode()).hexdigest()
    return Problems(problems.path, digest, found)


def _single_lines(problem: Problem) -> Iterator[InfillingProblem]:
    lines = problem.canonical_solution.split("\n")
    for at, line in enumerate(lines):
        if line.strip():
            yield _without(problem, f"{BENCHMARKS['single-line']}/{problem.task_id}/L{at}", lines, at, at)


def _line_runs(problem: Problem) -> Iterator[InfillingProblem]:
    lines = problem.canonical_solution.split("\n")
    ends = [at for at, line in enumerate(lines) if line.strip()]
    for first in ends:
        for last in ends:
            if first <= last:
                yield _without(problem, f"{BENCHMARKS['multi-line']}/{problem.task_id}/L{first}_L{last}", lines, first, last)


def _without(problem: Problem, name: str, lines: list[str], first: int, last: int) -> InfillingProblem:
    """The lines from `first` to `last` taken out."""
    before, part, behind = ("\n".join(lines[:first]), "\n".join(lines[first : last + 1]), "\n".join(lines[last + 1 :]))
    return _task(problem, name, f"{problem.prompt}{before}\n", f"{part}\n", behind)


def _spans(problem: Problem, benchmark: str) -> Iterator[InfillingProblem]:
    solution = problem.canonical_solution
    for number in range(SPANS[benchmark] if len(solution) > 1 else 0):
        digest = hashlib.sha256(f"{problem.task_id}\0{number}".encode()).digest()
        first = int.from_bytes(digest[:8], "big") % (len(solution) + 1)
        other = int.from_bytes(digest[8:16], "big") % len(solution)
        start, end = sorted((first, other if other < first else other + 1))  # two different places, every pair alike
        name = f"{BENCHMARKS[benchmark]}/{problem.task_id}/{number + 1}"
        yield _task(problem, name, problem.prompt + solution[:start], solution[start:end], solution[end:])


def _task(problem: Problem, name: str, prompt: str, part: str, suffix: str) -> InfillingProblem:
    return InfillingProblem(
        task_id=name, prompt=prompt, suffix=suffix, canonical_solution=part, entry_point=problem.entry_point, test=problem.test
    )
