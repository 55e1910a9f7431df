"""One rank (or the one process) that starts every case of a file, says what it started from, and trains on.

Usage: resume_program.py CASES.json, a list of {"config": YAML path, "dump": folder}; `dump/rank_N.npz` gets weights, moments and
the numbers of the state as they are before the first step.
"""

import json
import sys
from pathlib import Path

import numpy as np

from mindformers_codellama.config.read import read_run
from mindformers_codellama.train import run as journey

START = journey.start_or_resume


def dumping(folder):
    """`start_or_resume` that also writes what it filled."""

    def start(run, point, network, update, *, comm, **others):
        state, run_id, path = START(run, point, network, update, comm=comm, **others)
        tensors = {item.name: item.asnumpy() for item in (*update.parameters, *update.adam_m, *update.adam_v)}
        numbers = np.array([state.step, state.updates, state.scale.value, state.scale.current_step, state.scale.last_change])
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"rank_{comm.rank}.npz", **tensors, __state__=numbers)
        return state, run_id, path

    return start


for case in json.loads(Path(sys.argv[1]).read_text()):
    journey.start_or_resume = dumping(Path(case["dump"]))
    result = journey.train(read_run(case["config"]))
    print(f"done {case['config']}: step {result.step}", flush=True)
