"""Cost and memory as models and ranks grow: the planner's tables, and real runs at 1, 2, 4 and 8 processes beside its numbers.

    python benchmarks/scaling.py --tables            # print the tables of docs/scaling.md
    python benchmarks/scaling.py --tables --write    # and put them into the page
    python benchmarks/scaling.py                     # run every layout, print the measured table (a quarter of an hour)
    python benchmarks/scaling.py --layouts 1x1x1,2x1x1,1x2x1,1x1x2 --markdown docs/scaling.md

A run is `codellama launch --ranks N -- train CONFIG` on rows made here. Seconds per step are the median of the steps after
the third; the peak of a rank is the VmHWM of its process, looked at while it runs; bytes are what the loopback device
carried between the third and the last step, so nothing else may use it meanwhile, and every rank shares the cores there are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import yaml

from mindformers_codellama.config.read import read_run
from mindformers_codellama.data.mindrecord import write_rows
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.planner.devices import GIB, Servers
from mindformers_codellama.planner.plan import LayoutPlan, make_plan, plan_layout

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scaling.md"
MODELS = ("7b", "13b", "34b", "70b")
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LAYOUTS = "1x1x1,2x1x1,1x2x1,1x1x2,2x2x1,2x1x2,1x2x2,4x1x1,2x2x2,8x1x1"
STEP_ROWS, STEPS, FIRST = 8, 12, 3
SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "num_layers": 8,
    "num_heads": 8,
    "n_kv_heads": 8,
    "intermediate_size": 704,
    "seq_length": 128,
}


def best(name: str, ranks: int) -> LayoutPlan | None:
    """The planner's first choice for a shipped configuration with a step of 1,024 rows; None when nothing fits."""
    rows = ["parallel_config.data_parallel=1", "parallel_config.model_parallel=8", "parallel_config.pipeline_stage=2"]
    rows += ["parallel_config.micro_batch_num=1024", "runner_config.batch_size=1", "parallel_config.use_seq_parallel=True"]
    run = read_run(ROOT / f"configs/codellama/run_codellama_{name}_910b.yaml", overrides=rows)
    plan = make_plan(run, ranks, device_memory=64 * GIB, servers=Servers.of_size(ranks, 8))
    found = [plan.chosen, *plan.alternatives] if plan.origin == "search" else plan.alternatives or [plan.chosen]
    return found[0] if found[0].fits else None


def tables() -> str:
    """The tables between the marks of the page."""
    lines = ["Peak per rank in GiB, of the layout (data x model x stage) the planner puts first:", ""]
    lines += ["| ranks | " + " | ".join(MODELS) + " |", "|---|" + "---|" * len(MODELS)]
    plans = {(name, ranks): best(name, ranks) for name in MODELS for ranks in RANKS}

    def row(ranks: int, cell) -> str:
        return f"| {ranks} | " + " | ".join(cell(plans[name, ranks]) if plans[name, ranks] else "does not fit" for name in MODELS) + " |"

    lines += [row(ranks, lambda plan: f"{plan.peak / GIB:.1f} ({plan.layout})") for ranks in RANKS]
    lines += ["", "Estimated seconds of a step of 1,024 rows of 4,096 tokens, and the bubble:", ""]
    lines += ["| ranks | " + " | ".join(MODELS) + " |", "|---|" + "---|" * len(MODELS)]
    lines += [row(ranks, lambda plan: f"{plan.cost.seconds:.3g} s, {100 * plan.cost.bubble:.1f} %") for ranks in RANKS]
    lines += ["", "GiB that one rank sends per step over the data, model and stage axes:", ""]
    lines += ["| ranks | " + " | ".join(MODELS) + " |", "|---|" + "---|" * len(MODELS)]
    lines += [
        row(ranks, lambda plan: " / ".join(f"{sent(plan, axis) / GIB:.1f}" for axis in ("data", "model", "stage"))) for ranks in RANKS
    ]
    lines += ["", "Where the memory of 34B goes, first stage, GiB:", ""]
    lines += ["| ranks | layout | parameters | gradients | optimizer | activations | buffers | peak |", "|---|---|---|---|---|---|---|---|"]
    for ranks in RANKS:
        plan = plans["34b", ranks]
        if plan:
            stage = plan.stages[0]
            parts = (stage.parameters, stage.gradients, stage.optimizer, stage.activations, stage.buffers, stage.peak)
            lines.append(f"| {ranks} | {plan.layout} | " + " | ".join(f"{part / GIB:.2f}" for part in parts) + " |")
    return "\n".join(lines)


def sent(plan: LayoutPlan, axis: str) -> int:
    return max(sum(item.bytes for item in stage if item.axis == axis) for stage in plan.traffic)


def between(text: str, name: str) -> tuple[str, str, str]:
    """What stands before, between and after the marks of a part of the page."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    inside, _, after = rest.partition(end)
    return before + begin, inside, end + after


def put(page: Path, name: str, content: str) -> None:
    before, _, after = between(page.read_text(encoding="utf-8"), name)
    page.write_text(f"{before}{content}\n{after}", encoding="utf-8")


def parse(text: str) -> Layout:
    data, model, stages = map(int, text.split("x"))
    return Layout(data_parallel=data, model_parallel=model, pipeline_stage=stages)


def write_config(folder: Path, layout: Layout) -> Path:
    in_pipeline = layout.pipeline_stage > 1
    rows = STEP_ROWS // layout.data_parallel
    made = np.random.default_rng(0).integers(3, SIZES["vocab_size"], (STEP_ROWS * STEPS, SIZES["seq_length"] + 1)).astype(np.int32)
    write_rows(folder / "rows.mindrecord", ({"input_ids": row} for row in made), columns=["input_ids"], description="random", force=True)
    types = {key: "float32" for key in ("compute_dtype", "softmax_compute_type", "rotary_dtype", "param_init_type")}
    values = {
        "seed": 1, "output_dir": str(folder / "output"), "run_mode": "train", "use_parallel": layout.ranks > 1,
        "runner_config": {"epochs": 1, "batch_size": 1 if in_pipeline else rows, "sink_mode": False},
        "parallel": {"parallel_mode": 1, "full_batch": True, "enable_parallel_optimizer": True},
        "parallel_config": {
            "data_parallel": layout.data_parallel, "model_parallel": layout.model_parallel, "pipeline_stage": layout.pipeline_stage,
            "micro_batch_num": rows if in_pipeline else 1, "vocab_emb_dp": False, "use_seq_parallel": layout.model_parallel > 1,
        },
        "train_dataset": {
            "data_loader": {"type": "MindDataset", "dataset_dir": str(folder / "rows.mindrecord")}, "input_columns": ["input_ids"],
        },
        "callbacks": [{"type": "MFLossMonitor"}], "train_log": {"tensorboard": False, "plot": False},
        "context": {"mode": 0, "device_target": "CPU", "runtime_num_threads": 1},
        "model": {"model_config": {"type": "LlamaConfig", **SIZES, **types}, "arch": {"type": "LlamaForCausalLM"}},
        "runner_wrapper": {"type": "MFTrainOneStepCell", "use_clip_grad": True},
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def rank_peaks(folder: Path, found: dict[int, int]) -> None:
    """Look at every process of a rank of the run in `folder`; the high-water mark only grows."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            variables = (status.parent / "environ").read_bytes().split(b"\0")
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        named = dict(item.partition(b"=")[::2] for item in variables)
        if named.get(b"SCALING_RUN") != str(folder).encode() or named.get(b"MS_ROLE", b"MS_WORKER") != b"MS_WORKER" or "VmHWM" not in lines:
            continue
        rank, size = int(named.get(b"RANK_ID", b"0")), int(lines["VmHWM"].split()[0]) * 1024
        found[rank] = max(found.get(rank, 0), size)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def loopback() -> int:
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[1])


def run_layout(layout: Layout, timeout: float) -> dict[str, object]:
    """Train a few steps in a layout; what was measured."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, log = write_config(folder, layout), folder / "output" / "log" / "train.jsonl"
        words = [sys.executable, "-m", "mindformers_codellama.cli.main"]
        if layout.ranks > 1:
            words += [
                "launch",
                "--ranks",
                str(layout.ranks),
                "--master",
                f"127.0.0.1:{free_port()}",
                "--log-dir",
                str(folder / "logs"),
                "--",
                "train",
                str(config),
            ]
        else:
            words += ["train", str(config)]
        environment = os.environ | {"SCALING_RUN": str(folder), "OMP_NUM_THREADS": "1"}
        peaks: dict[int, int] = {}
        carried: dict[int, int] = {}
        deadline = time.monotonic() + timeout
        with (folder / "out.txt").open("wb") as out:
            process = subprocess.Popen(words, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
            try:
                while process.poll() is None and time.monotonic() < deadline:
                    rank_peaks(folder, peaks)
                    done = log.read_text().count('"loss"') if log.exists() else 0
                    carried.setdefault(done, loopback())
                    time.sleep(0.2)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(60)
        if process.returncode:
            raise SystemExit(f"{layout} ended with {process.returncode}:\n{(folder / 'out.txt').read_text()[-3000:]}")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        seconds = [line["seconds"] for line in lines if "seconds" in line]
        counted = sorted(step for step in carried if FIRST <= step)
        moved = (carried[counted[-1]] - carried[counted[0]]) / (counted[-1] - counted[0]) if len(counted) > 1 else None
        run = read_run(config)
        plan = plan_layout(run, layout, device_memory=64 * GIB, servers=Servers.of_size(layout.ranks, layout.ranks))
    return {"layout": layout, "seconds": statistics.median(seconds[FIRST:]), "peaks": peaks, "carried": moved, "plan": plan}


def as_markdown(results: list[dict[str, object]]) -> str:
    cores = len(os.sched_getaffinity(0))
    shape = ", ".join(f"{key} {value}" for key, value in SIZES.items())
    head = (
        f"{date.today()}, {cores} cores for all ranks, {platform.machine()}; {shape}; {STEP_ROWS} rows per step, ZeRO, sequence parallel."
    )
    titles = ("layout", "s per step", "planned, a core each", "peak of a rank, MB", "planned", "ratio, mean", "MB sent per step", "planned")
    lines = [head, "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for result in results:
        layout, plan, peaks = result["layout"], result["plan"], result["peaks"]
        planned = {rank: plan.stages[layout.place(rank).stage].peak for rank in range(layout.ranks)}
        ratio = statistics.mean(planned[rank] / peaks[rank] for rank in peaks)
        total = sum(sum(item.bytes for item in plan.traffic[layout.place(rank).stage]) for rank in range(layout.ranks))
        moved = "-" if result["carried"] is None else f"{result['carried'] / 1e6:.1f}"
        low, high = min(peaks.values()) / 1e6, max(peaks.values()) / 1e6
        span, plans = f"{low:.0f} to {high:.0f}", f"{min(planned.values()) / 1e6:.0f} to {max(planned.values()) / 1e6:.0f}"
        seconds = f"{result['seconds']:.3f} | {plan.cost.seconds:.3f}"
        lines.append(f"| {layout} | {seconds} | {span} | {plans} | {ratio:.2f} | {moved} | {total / 1e6:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="the planner's tables instead of runs")
    parser.add_argument("--write", action="store_true", help="with --tables: put them into docs/scaling.md")
    parser.add_argument("--layouts", default=LAYOUTS, help=f"comma separated (default: {LAYOUTS})")
    parser.add_argument("--timeout", type=float, default=600, help="seconds of one run")
    parser.add_argument("--markdown", type=Path, help="put the measured table into this page as well")
    args = parser.parse_args()
    if args.tables:
        text = tables()
        print(text)
        if args.write:
            put(PAGE, "tables", text)
        return
    results = []
    for name in args.layouts.split(","):
        print(f"running {name}", file=sys.stderr, flush=True)
        results.append(run_layout(parse(name), args.timeout))
        print(as_markdown(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    text = as_markdown(results)
    print(text)
    if args.markdown:
        put(args.markdown, "measured", text)


if __name__ == "__main__":
    main()
