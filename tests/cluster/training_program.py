"""One rank (or the one process) that trains every case of a file, one after the other.

Usage: training_program.py CASES.json, a list of {"config": YAML path, "poison": [step, rank], "stop": [step, rank], "break": name}.
"""

import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from mindformers_codellama.config.read import read_run
from mindformers_codellama.layout.cuts import run_layout
from mindformers_codellama.parallel.comm import join
from mindformers_codellama.runtime.context import enter_context
from mindformers_codellama.train import plan, reduce
from mindformers_codellama.train.rank_step import RankStep
from mindformers_codellama.train.run import train
from mindformers_codellama.train.step import TrainStep

KEPT = {"rank_step": RankStep.__call__, "train_step": TrainStep.__call__, "update": plan.RankUpdate, "add": reduce.AddRanks}


def poison(cls, original, at):
    """Let the loss scale of one step be infinite in this process."""
    made = []

    def call(self, batches, *, scale, **others):
        made.append(scale)
        scale = replace(scale, value=float("inf")) if len(made) == at else scale
        return original(self, batches, scale=scale, **others)

    cls.__call__ = call


def ask_to_stop(at):
    """Let this process hear Ctrl-C just before one step."""
    made = []

    def call(self, batches, **settings):
        made.append(at)
        if len(made) == at:
            signal.raise_signal(signal.SIGINT)
        return KEPT["rank_step"](self, batches, **settings)

    RankStep.__call__ = call


class NoSum(reduce.nn.Cell):
    """A sum over ranks that is left out."""

    def __init__(self, axis):
        super().__init__()

    def construct(self, x):
        """The own part alone."""
        return x


def counts_everything(*args, counted, **others):
    return KEPT["update"](*args, counted=[True] * len(counted), **others)


def main():
    for case in json.loads(Path(sys.argv[1]).read_text()):
        RankStep.__call__, TrainStep.__call__ = KEPT["rank_step"], KEPT["train_step"]
        plan.RankUpdate, reduce.AddRanks = KEPT["update"], KEPT["add"]
        run = read_run(case["config"])
        if "poison" in case:
            at, rank = case["poison"]
            layout = run_layout(run)
            enter_context(run.context)
            if layout.ranks == 1 or join(layout).rank == rank:
                poison(RankStep, KEPT["rank_step"], at)
                poison(TrainStep, KEPT["train_step"], at)
        if case.get("break") == "sum":
            reduce.AddRanks = NoSum
        if case.get("break") == "norm":
            plan.RankUpdate = counts_everything
        started = time.perf_counter()
        if "stop" in case:
            at, rank = case["stop"]
            enter_context(run.context)
            if join(run_layout(run)).rank == rank:
                ask_to_stop(at)
            try:
                train(run)
            except KeyboardInterrupt:
                print("stopped", flush=True)
            continue
        train(run)
        print(f"done {case['config']} in {time.perf_counter() - started:.1f} s", flush=True)


main()
