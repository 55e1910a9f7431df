"""Start a Python file as several ranks on this machine, with MindSpore's own dynamic cluster and nothing of ours between."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SCHEDULER = "from mindspore.communication import init; init()"
LAST_WORDS = 25.0
"""Seconds in which the other ranks may end by themselves once one has failed."""


@dataclass
class RankRun:
    """What each rank printed and how it ended."""

    codes: list[int]
    logs: list[str]

    def check(self) -> "RankRun":
        """Fail with the log of the first rank that did not end with 0."""
        for rank, code in enumerate(self.codes):
            assert code == 0, f"rank {rank} ended with {code}:\n{self.logs[rank][-4000:]}"
        return self


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(arguments: list[str], ranks: int, folder: Path, *, timeout: float = 300, env: dict[str, str] | None = None) -> RankRun:
    """Run `python *arguments` as `ranks` ranks; logs go to `folder/rank_N.log`.

    Every rank gets one thread: there are more ranks than cores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = os.environ | {
        "MS_WORKER_NUM": str(ranks),
        "MS_SCHED_HOST": "127.0.0.1",
        "MS_SCHED_PORT": str(free_port()),
        "RANK_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
        **(env or {}),
    }
    processes, files = [], []

    def start(command: list[str], name: str, extra: dict[str, str]) -> None:
        files.append((folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(command, env=common | extra, stdout=files[-1], stderr=subprocess.STDOUT, start_new_session=True)
        processes.append(process)

    try:
        start([sys.executable, "-c", SCHEDULER], "scheduler", {"MS_ROLE": "MS_SCHED"})
        for rank in range(ranks):
            extra = {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank), "RANK_ID": str(rank), "DEVICE_ID": str(rank)}
            start([sys.executable, *arguments], f"rank_{rank}", extra)
        deadline = time.monotonic() + timeout
        workers = processes[1:]
        failed_at = 0.0
        while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
            if not failed_at and any(worker.poll() not in (None, 0) for worker in workers):
                failed_at = time.monotonic()
                deadline = min(deadline, failed_at + LAST_WORDS)
            time.sleep(0.05)
        codes = [worker.poll() if worker.poll() is not None else -signal.SIGKILL for worker in workers]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for file in files:
            file.close()
    return RankRun(codes, [(folder / f"rank_{rank}.log").read_text(errors="replace") for rank in range(ranks)])
