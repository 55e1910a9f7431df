"""`codellama launch` in a process of its own, with fake ranks that leave their process ids behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

from ranks_port import free_ports

DRIVER = """
import sys
from mindformers_codellama.cluster import launch_job, launch_ranks
launch_ranks.SCHEDULER = ("sleep", "600")
launch_job.SETTLE = 0.4
from mindformers_codellama.cli.main import main
sys.exit(main(["launch", *sys.argv[1:]]))
"""
"""The scheduler is a sleep: these ranks do not meet, and MindSpore takes seconds to import."""

HEAD = """
import os, signal, subprocess, sys, time
rank = int(os.environ["RANK_ID"])
def note(process):
    with open(os.path.join(os.environ["NOTES"], str(process)), "w") as file:
        file.write(str(rank))
note(os.getpid())
def all_have_started():
    until = time.monotonic() + 20
    while len(os.listdir(os.environ["NOTES"])) < int(os.environ["RANK_SIZE"]) and time.monotonic() < until:
        time.sleep(0.02)
"""

HANG = "time.sleep(600)"
"""The body of a rank that does nothing."""


class Launched:
    """What to start, and what became of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.port = free_ports(1)[0]
        self.env = {**os.environ, "NOTES": str(self.notes), "LOG_MF_PATH": str(folder / "log")}
        for name in ("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE", "CODELLAMA_LAUNCH"):
            self.env.pop(name, None)

    def command(self, body: str, *flags: str, ranks: int = 3) -> list[str]:
        program = self.folder / "program.py"
        program.write_text(HEAD + body)
        where = ["--ranks", str(ranks), "--master", f"127.0.0.1:{self.port}", "--device-target", "CPU"]
        return [sys.executable, "-c", DRIVER, *where, *flags, "--", "python", str(program)]

    def run(self, body: str, *flags: str, ranks: int = 3) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(body, *flags, ranks=ranks), env=self.env, capture_output=True, text=True, timeout=60, cwd=self.folder
        )

    def start(self, body: str, *flags: str, ranks: int = 3, **options) -> subprocess.Popen:
        return subprocess.Popen(self.command(body, *flags, ranks=ranks), env=self.env, cwd=self.folder, **options)

    def wait_for_notes(self, count: int) -> None:
        until = time.monotonic() + 30
        while len(self.pids()) < count:
            assert time.monotonic() < until, f"{len(self.pids())} of {count} processes started"
            time.sleep(0.02)

    def pids(self) -> list[int]:
        return [int(path.name) for path in self.notes.iterdir() if path.read_text()]

    def left(self, seconds: float = 5) -> list[int]:
        """Processes that are still there after so long."""
        until = time.monotonic() + seconds
        while (found := [pid for pid in self.pids() if alive(pid)]) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def log(self, rank: int) -> str:
        return (self.folder / "log" / f"rank_{rank}" / "mindformer.log").read_text()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but has not been waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
