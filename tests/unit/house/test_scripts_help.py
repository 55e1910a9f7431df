"""Every script and tool says what it does when asked, and refuses what it does not know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOLS = sorted(path.relative_to(ROOT) for path in (ROOT / "tools").glob("*.py"))


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_a_script_explains_itself(script):
    done = subprocess.run(["bash", str(ROOT / "scripts" / script), "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert f"bash scripts/{script}" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dta", "x"], "unknown option --dta"),
        (["--data"], "--data needs a value"),
        (["--data", "no/such/file.json"], "cannot read"),
    ],
)
def test_quickstart_refuses_bad_arguments_before_it_installs_anything(words, message, tmp_path):
    done = subprocess.run(["bash", str(ROOT / "scripts/quickstart.sh"), *words], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tool", TOOLS, ids=str)
def test_a_tool_is_a_thin_wrapper_with_help(tool):
    assert len((ROOT / tool).read_text(encoding="utf-8").splitlines()) < 40
    done = subprocess.run([sys.executable, str(ROOT / tool), "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "usage:" in done.stdout


def test_shell_files_parse():
    scripts = [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci/run"]
    assert len(scripts) >= 4
    for script in scripts:
        done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{script}: {done.stderr}"
