"""Where the interpreter of the programs may lie."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from eval_case import ADD, RIGHT, WRONG

from mindformers_codellama.evaluation.judge import judge
from mindformers_codellama.evaluation.sandbox import Limits, Sandbox


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "venv"


def test_an_environment_below_tmp_is_seen_although_programs_have_a_tmp_of_their_own(sandbox, place, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True, timeout=60)
    monkeypatch.setattr(sys, "prefix", str(place))
    there = Sandbox(bwrap=sandbox.bwrap, python=str(place / "bin" / "python"))
    assert judge(ADD, RIGHT, there, Limits()).passed
    assert not judge(ADD, WRONG, there, Limits()).passed
