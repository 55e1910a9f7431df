"""Peak memory that `codellama plan` foresees beside what training and prediction really took on this CPU.

Every measurement is a process of its own that runs `codellama train` (on rows made here) or `codellama predict`, and reads
its own VmHWM. A baseline, the same run with the same number of layers and next to no sizes, is taken off: what remains
is what sizes cost, and is compared with the plan less its constants for the process and the graphs. The last column compares the
whole of both. Memory does not depend on what else the machine does. About three minutes on two cores.

    python benchmarks/plan_memory.py
    python benchmarks/plan_memory.py --markdown docs/scaling.md
    CODELLAMA_KERNELS=off python benchmarks/plan_memory.py     # plain operators
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

from mindformers_codellama.config.read import read_run
from mindformers_codellama.data.mindrecord import write_rows
from mindformers_codellama.planner.devices import GIB, Servers
from mindformers_codellama.planner.plan import make_plan

# V, D, L, N, K, F, S, B, micro batches, recompute
TRAINING = {
    "base": (500, 256, 4, 4, 4, 688, 256, 4, 1, False),
    "twice the layers": (500, 256, 8, 4, 4, 688, 256, 4, 1, False),
    "twice the hidden size": (500, 512, 4, 4, 4, 688, 256, 4, 1, False),
    "twice the inner size": (500, 256, 4, 4, 4, 1376, 256, 4, 1, False),
    "twice the rows": (500, 256, 4, 4, 4, 688, 256, 8, 1, False),
    "twice the tokens": (500, 256, 4, 4, 4, 688, 512, 4, 1, False),
    "sixteen times the vocabulary": (8000, 256, 4, 4, 4, 688, 256, 4, 1, False),
    "grouped heads": (500, 256, 4, 8, 2, 688, 256, 4, 1, False),
    "two micro batches": (500, 256, 4, 4, 4, 688, 256, 4, 2, False),
    "recompute": (500, 256, 4, 4, 4, 688, 256, 4, 1, True),
    "weights, not activations": (8000, 1024, 6, 8, 8, 2752, 32, 1, 1, False),
}
# V, D, L, N, K, F, S, B, longest text, with a cache
PREDICTION = {
    "cache": (2048, 512, 6, 8, 8, 1376, 1024, 1, 1024, True),
    "cache, four rows": (2048, 512, 6, 8, 8, 1376, 1024, 4, 1024, True),
    "cache, large": (2048, 1024, 8, 8, 2, 2752, 512, 1, 200, True),
    "whole rows": (2048, 512, 4, 8, 8, 1376, 512, 1, 300, False),
}
KERNELS = os.environ.get("CODELLAMA_KERNELS", "auto")
"""The variable decides in the workers too."""
TINY = (32, 2, 2, 64)
"""D, N, K, F of a baseline."""


def configuration(folder: Path, mode: str, sizes: tuple) -> Path:
    vocab, hidden, layers, heads, kv_heads, inner, length, rows, *rest = sizes
    model = {
        "type": "LlamaConfig", "seq_length": length, "vocab_size": vocab, "hidden_size": hidden, "num_layers": layers, "num_heads": heads,
        "n_kv_heads": kv_heads, "intermediate_size": inner, "batch_size": rows, "do_sample": False,
        **{key: "float32" for key in ("compute_dtype", "softmax_compute_type", "rotary_dtype", "param_init_type")},
    }  # fmt: skip
    values = {
        "kernels": KERNELS, "seed": 1, "output_dir": str(folder / "output"), "run_mode": mode,
        "context": {"mode": 0, "device_target": "CPU", "runtime_num_threads": 1},
        "model": {"model_config": model, "arch": {"type": "LlamaForCausalLM"}}, "callbacks": [{"type": "MFLossMonitor"}],
        "runner_wrapper": {"type": "MFTrainOneStepCell", "use_clip_grad": True}, "train_log": {"tensorboard": False, "plot": False},
    }  # fmt: skip
    if mode == "train":
        micro, recompute = rest
        values["runner_config"] = {"epochs": 1, "batch_size": rows, "sink_mode": False, "gradient_accumulation_steps": micro}
        values["recompute_config"] = {"recompute": recompute}
        values["train_dataset"] = {
            "data_loader": {"type": "MindDataset", "dataset_dir": str(folder / "rows.mindrecord")},
            "input_columns": ["input_ids"],
        }
        made = np.random.default_rng(0).integers(3, vocab, (2 * rows * micro, length + 1)).astype(np.int32)
        write_rows(
            folder / "rows.mindrecord", ({"input_ids": row} for row in made), columns=["input_ids"], description="random", force=True
        )
    else:
        model["max_decode_length"], model["use_past"] = rest
        values["input_data"] = ["def add(a, b):"] * rows
        values["predict_batch_size"] = rows
        values["trainer"] = {"model_name": "codellama_tiny"}  # for its tokenizer
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def baseline_sizes(sizes: tuple) -> tuple:
    hidden, heads, kv_heads, inner = TINY
    vocab, _, layers, *_ = sizes
    training = len(sizes) == 10 and isinstance(sizes[9], bool) and sizes[8] < 32
    if training:
        return (100, hidden, layers, heads, kv_heads, inner, 8, 1, sizes[8], sizes[9])
    return (2048, hidden, layers, heads, kv_heads, inner, 32, 1, 32, sizes[9])


def measured(mode: str, sizes: tuple) -> tuple[int, dict[str, int]]:
    """Peak bytes of the process, and the plan: its peak, and its constants."""
    with tempfile.TemporaryDirectory() as name:
        config = configuration(Path(name), mode, sizes)
        done = subprocess.run([sys.executable, __file__, "--worker", mode, str(config)], capture_output=True, text=True, cwd=name)
        if done.returncode:
            raise SystemExit(f"{mode} {sizes} failed:\n{done.stderr[-3000:]}")
        run = read_run(config)
        stage = make_plan(run, 1, device_memory=64 * GIB, servers=Servers.of_size(1, 1)).chosen.stages[0]
        return json.loads(done.stdout.strip().splitlines()[-1])["peak"], {"peak": stage.peak, "runtime": stage.lasting["runtime"]}


def worker(mode: str, config: str) -> None:
    from mindformers_codellama.cli.main import main as codellama

    prompts = read_run(config).input_data
    code = codellama([mode, config, *prompts])
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    print("\n" + json.dumps({"peak": int(status["VmHWM"].split()[0]) * 1024}))
    sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", type=Path, help="put the table into this page")
    parser.add_argument("--only", choices=("train", "predict"))
    parser.add_argument("--worker", nargs=2, metavar=("MODE", "CONFIG"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(*args.worker)
    rows, baselines = [], {}
    for mode, cases in (("train", TRAINING), ("predict", PREDICTION)):
        for name, sizes in cases.items() if args.only in (None, mode) else ():
            small = baseline_sizes(sizes)
            if (mode, small) not in baselines:
                baselines[mode, small] = measured(mode, small)[0]
            peak, plan = measured(mode, sizes)
            base = baselines[mode, small]
            row = {"mode": mode, "case": name, "sizes": sizes, "measured": peak - base, "planned": plan["peak"] - plan["runtime"]}
            row |= {"whole": peak, "planned_whole": plan["peak"], "baseline": base}
            rows.append(row)
            print(f"{mode} {name}: {row['measured'] / 1e6:.0f} MB, planned {row['planned'] / 1e6:.0f}", file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    text = as_markdown(rows)
    print(text)
    if args.markdown:
        begin, end = "<!-- memory: begin -->\n", "<!-- memory: end -->"
        before, _, rest = args.markdown.read_text(encoding="utf-8").partition(begin)
        args.markdown.write_text(f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def as_markdown(rows: list[dict]) -> str:
    lines = ["| run | V, D, L, N, K, F | S x B | measured, MB | planned, MB | planned / measured | the same with the process |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        sizes = row["sizes"]
        shape, tokens = ", ".join(map(str, sizes[:6])), f"{sizes[6]} x {sizes[7]}"
        ratio, whole = row["planned"] / row["measured"], row["planned_whole"] / row["whole"]
        figures = f"{row['measured'] / 1e6:.0f} | {row['planned'] / 1e6:.0f} | {ratio:.2f} | {whole:.2f}"
        lines.append(f"| {row['mode']}: {row['case']} | {shape} | {tokens} | {figures} |")
    for mode in ("train", "predict"):
        errors = [abs(row["planned"] / row["measured"] - 1) for row in rows if row["mode"] == mode]
        wholes = [abs(row["planned_whole"] / row["whole"] - 1) for row in rows if row["mode"] == mode]
        if errors:
            own = f"{mode}: mean error {100 * statistics.mean(errors):.0f} %, worst {100 * max(errors):.0f} %"
            lines += ["", f"{own}; of the whole process {100 * statistics.mean(wholes):.0f} %, {100 * max(wholes):.0f} %."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
