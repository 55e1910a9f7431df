"""Start `codellama launch` as a person does, and see what is left of it."""

import os
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = Path(__file__).with_name("launch_program.py")
JOIN_SECONDS = 120
"""Until all ranks have joined; several MindSpores start on few cores."""


def launch(folder: Path, *flags: str, steps: int = 0, before: tuple[str, ...] = ()) -> subprocess.Popen:
    """A launcher whose ranks run `launch_program.py`; `before` is put before the command."""
    command = [sys.executable, "-m", "mindformers_codellama.cli.main", "launch", *flags, "--device-target", "CPU"]
    command += ["--", "python", str(PROGRAM), str(folder), str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*before, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def rank_pids(folder: Path, ranks: int) -> list[int]:
    """Process ids of the ranks, once all have joined."""
    paths = [folder / f"{rank}.pid" for rank in range(ranks)]
    until = time.monotonic() + JOIN_SECONDS
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < until, "the ranks did not join: " + logs(folder)
        time.sleep(0.1)
    return [int(path.read_text()) for path in paths]


def logs(folder: Path) -> str:
    """The ends of all logs, for messages."""
    return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(folder.rglob("*.log")))


def gone(pids: list[int], seconds: float = 5) -> bool:
    """Whether all have ended, after so long at the most."""
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)
