"""docs/lite.md, every bash block of it, in order, in a copy of the project; and its flags, which are those of the command."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_codellama.cli.infer import add_arguments
from mindformers_codellama.mindir.lite_ini import read_lite_ini

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "lite.md").read_text(encoding="utf-8")
PROMPT = "def bubble_sort(arr):\n"


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """What the page needs of the project, in a folder of its own."""
    target = tmp_path_factory.mktemp("clone") / "project"
    for name in ("configs", "scripts", "tools", "mindformers_codellama"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(PROJECT / name), str(target / name)], check=True)
    return target


def run_block(text: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RANK", "MS_", "DEVICE_ID"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    script = f"set -euo pipefail\n{text}"
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"{text}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.timeout(900)
def test_the_page_works_from_top_to_bottom(copied):
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    _, two, predict, page, one = (run_block(block, copied) for block in blocks)
    wanted = predict.strip("\n")
    assert wanted.startswith(PROMPT)
    assert len(wanted) > len(PROMPT)
    assert two.count(wanted) == 3
    assert page.splitlines() == [f"run model {rank} on rank:{rank},device {rank}..." for rank in (0, 1)]
    for log in (*copied.glob("rank_?.log"), *copied.glob("output/lite/page_rank_?.log")):
        assert log.read_text(encoding="utf-8", errors="replace").count(wanted) == 3, log
    assert len([*copied.glob("rank_?.log"), *copied.glob("output/lite/page_rank_?.log")]) == 4
    assert one.count(wanted) == 1
    assert "def add(a, b):" in one
    assert one.rstrip().endswith("Task is over.")


def test_the_flags_of_the_page_are_those_of_the_command():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    known = {word for action in parser._actions for word in action.option_strings if "-" not in word[2:]} - {"-h", "--help"}
    table = PAGE[PAGE.index("## Flags") : PAGE.index("## What is refused")]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert {flag for row in rows for flag in re.findall(r"`(--\w+)`", row)} == known


def test_files_shown_on_the_page_are_sound(tmp_path):
    (tmp_path / "hccl_8p_01234567_127.0.0.1.json").write_text("{}")
    shown = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    assert len(shown) == 3
    for number, text in enumerate(shown):
        (tmp_path / f"{number}.ini").write_text(text)
        read_lite_ini(tmp_path / f"{number}.ini")
