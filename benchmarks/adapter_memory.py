"""Memory and speed of training a low-rank adapter beside training all weights, on the same rows.

Every measurement is a process of its own that makes the network, some steps, and reads its own VmHWM; what a process with
MindSpore and no network takes is taken off for the ratio of what training itself needs. Steps are timed in turns: one process waits
while the other makes a step. Memory does not depend on what else the machine does. About four minutes on two cores.

    python benchmarks/adapter_memory.py
    python benchmarks/adapter_memory.py --shape 15m --rows 2 --tokens 128 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from random_weights import prompt_ids
from shapes import NORM_EPS, ROPE_THETA, SHAPES

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.config.sections_pet import PetSection
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.model.initial import initial_value
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.lora import add_adapter
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.runtime.context import enter_context
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.step import TrainStep

WORKS = ("nothing", "all weights", "adapter on attention", "adapter on every matrix")
TARGETS = {WORKS[2]: ".*wq|.*wk|.*wv|.*wo", WORKS[3]: ".*w"}
RANK = 16


def work(arguments: argparse.Namespace) -> None:
    """One process: a line when ready, then one line per line of input, at the end its peak."""
    enter_context(ContextSection(device_target="CPU", runtime_num_threads=arguments.threads))
    positions = {"seq_length": arguments.tokens, "max_position": arguments.tokens}
    config = ModelConfig(
        **SHAPES[arguments.shape].fields(), **positions, rms_norm_eps=NORM_EPS, rope_theta=ROPE_THETA, compute_dtype=arguments.form
    )
    if choose_kernels(threads=arguments.threads) is None:
        raise SystemExit("the kernels cannot be used")
    step, trained = None, 0
    if arguments.work != "nothing":
        network = LlamaNetwork(config)
        target = TARGETS.get(arguments.work)
        if target:
            add_adapter(network, PetSection(lora_rank=RANK, lora_alpha=2 * RANK, lora_dropout=0, target_modules=target), 0)
        for name, parameter in network.parameters_and_names():
            if "lora" not in parameter.name:
                parameter.set_data(ms.Tensor(initial_value(name, tuple(parameter.shape), 0)).astype(parameter.dtype))
        update = AdamUpdate(network.trainable_params(), AdamSettings(type="AdamW", beta2=0.95, eps=1e-8))
        step, trained = TrainStep(TrainingLoss(network), update, columns=("input_ids",)), sum(p.size for p in update.parameters)
    ids = prompt_ids(SHAPES[arguments.shape], arguments.rows, arguments.tokens + 1)
    print("ready", flush=True)
    for index, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        if step is not None:
            step([{"input_ids": ids}], updates=index, learning_rate=1e-4, scale=LossScale(value=1.0))
        print(time.perf_counter() - start, flush=True)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"peak": int(peak.split()[1]) * 1024, "trained": trained}), flush=True)


def measure(arguments: argparse.Namespace, form: str) -> dict[str, dict[str, float]]:
    """Peak bytes, trained numbers and seconds per step of every kind of work; steps in turns."""
    options = [f"--{key}={getattr(arguments, key)}" for key in ("shape", "rows", "tokens", "threads")]
    workers = {}
    for name in WORKS:
        command = [sys.executable, __file__, "--work", name, "--form", form, *options]
        workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert workers[name].stdout.readline() == "ready\n", name
    seconds: dict[str, list[float]] = {name: [] for name in WORKS}
    for _ in range(arguments.steps):
        for name, worker in workers.items():
            print(file=worker.stdin, flush=True)
            seconds[name].append(float(worker.stdout.readline()))
    found = {}
    for name, worker in workers.items():
        worker.stdin.close()
        found[name] = json.loads(worker.stdout.readline()) | {"seconds": statistics.median(seconds[name][1:])}
        worker.wait()
    return found


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown."""
    lines = ["| products | trained | numbers | peak of the process | without MindSpore itself | share | step | share |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for form, works in found.items():
        empty, full = works["nothing"]["peak"], works["all weights"]
        for name in WORKS[1:]:
            one = works[name]
            own, whole = one["peak"] - empty, full["peak"] - empty
            numbers = f"{one['trained'] / 1e6:.2f}M"
            sizes = f"{one['peak'] / 1e6:.0f} MB | {own / 1e6:.0f} MB | {own / whole:.2f}"
            lines.append(f"| {form} | {name} | {numbers} | {sizes} | {one['seconds']:.2f} s | {one['seconds'] / full['seconds']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4, help="of which the first is not counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--forms", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--form", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    np.seterr(all="ignore")
    if arguments.work:
        work(arguments)
        return
    found = {form: measure(arguments, form) for form in arguments.forms}
    print(json.dumps(found, indent=2) if arguments.json else table(found))


if __name__ == "__main__":
    main()
