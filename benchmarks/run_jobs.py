"""Runs jobs in processes of their own, in turns, and keeps every sample as a JSON line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs import LLAMA_CPP, MACHINE, OURS, PLAIN, Job

WORKER = Path(__file__).with_name("worker.py")
JOB_SECONDS = 1800
"""A job that takes longer is stopped."""


@dataclass(frozen=True)
class Pythons:
    """Interpreters of the three environments; they may be one."""

    ours: str
    llama_cpp: str
    torch: str

    def of(self, engine: str) -> str:
        if engine in (OURS, PLAIN, MACHINE):
            return self.ours
        return self.llama_cpp if engine == LLAMA_CPP else self.torch


def run_job(job: Job, pythons: Pythons) -> dict[str, object]:
    """One sample: its figures, or why there are none."""
    threads = str(job.threads)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    try:
        command = [pythons.of(job.engine), str(WORKER), job.to_json()]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=JOB_SECONDS)
    except subprocess.TimeoutExpired:
        return {"unavailable": f"took longer than {JOB_SECONDS} s"}
    except OSError as error:
        return {"unavailable": f"{pythons.of(job.engine)}: {error.strerror}"}
    seconds = {"seconds": time.perf_counter() - start}
    lines = done.stdout.strip().splitlines()
    if done.returncode in (0, 3) and lines:
        return json.loads(lines[-1]) | seconds
    return {"unavailable": why(done.returncode, done.stderr)} | seconds


def why(code: int, errors: str) -> str:
    """Why a worker ended, in one line."""
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1].strip()[:300]}" if lines else f"exit code {code}"


def turns(jobs: Sequence[Job], pairs: int) -> list[tuple[int, Job]]:
    """(pair, job): every job once per pair, the order turned round from one pair to the next, so that drift hits both sides alike."""
    return [(pair, job) for pair in range(pairs) for job in (jobs if pair % 2 == 0 else jobs[::-1])]


def run_group(
    name: str, jobs: Sequence[Job], pairs: int, *, pythons: Pythons, keep: Callable[[dict[str, object]], None], say: Callable[[str], None]
) -> None:
    """Run all turns of a group. A side that is not available is asked once.

    Args:
        name: of the group.
        jobs: of one pair.
        pairs: samples of each job.
        pythons: who runs them.
        keep: called with every sample.
        say: called with a line of progress.
    """
    missing: set[str] = set()
    order = turns(jobs, pairs)
    for number, (pair, job) in enumerate(order, 1):
        if job.name in missing:
            continue
        say(f"{name} [{number}/{len(order)}], pair {pair + 1} of {pairs}: {job.name} {' '.join(job.tasks)}")
        sample = run_job(job, pythons)
        if "unavailable" in sample:
            missing.add(job.name)
            say(f"    not run: {sample['unavailable']}")
        keep({"group": name, "pair": pair, "job": job.name, **sample})


def stderr_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
