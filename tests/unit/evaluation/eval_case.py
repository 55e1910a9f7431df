"""Problems of the evaluation tests: a tiny file of their own, and HumanEval where it is at hand."""

import os
from pathlib import Path

from mindformers_codellama.evaluation.problems import read_problems

ROOT = Path(__file__).resolve().parents[3]
TINY = Path(__file__).parent / "problems.jsonl"
HUMANEVAL = Path(os.environ.get("CODELLAMA_SHARED_DATA") or ROOT.parent / "shared" / "data") / "HumanEval.jsonl.gz"
PROBLEMS = read_problems(TINY)
ADD = PROBLEMS.tasks["Tiny/0"]
RIGHT = ADD.canonical_solution
WRONG = "    return a - b\n"
