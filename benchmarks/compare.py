"""Ours beside transformers on torch: prefill, decode and a training step, in turns, in one run.

Every measurement is a process of its own, so that the two thread pools never share the cores. The pairs alternate
(ours, peer, ours, peer, ...): when the machine's speed drifts, both drift, and the ratio of each pair stays fair.

    python benchmarks/compare.py                         # 15m shape, 3 pairs, about 2 minutes on two cores
    python benchmarks/compare.py --shape 125m --pairs 5 --markdown benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent

# figure -> (worker's subcommand, JSON field, True when more is better)
FIGURES = {
    "decode, batch 1, tokens/s": ("generate", "decode_tokens_per_second", True),
    "prefill, seconds": ("generate", "prefill_seconds", False),
    "training step, tokens/s": ("train", "training_tokens_per_second", True),
    "training peak memory, MiB": ("train", "peak_memory_mib", False),
}


def run_worker(script: str, work: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, str(HERE / script), work, "--shape", args.shape, "--threads", str(args.threads)]
    if work == "generate":
        command += ["--prompt", str(args.prompt), "--tokens", str(args.tokens)]
    else:
        command += ["--batch", str(args.batch), "--seq-length", str(args.seq_length)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(args.threads)})
    if done.returncode:
        raise SystemExit(f"{script} {work} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def to_markdown(rows: list[tuple[str, list[float], list[float], bool]], versions: tuple[str, str], args: argparse.Namespace) -> str:
    lines = [
        f"## {args.shape} shape, {date.today()}",
        "",
        f"{cpu_name()}, {args.threads} threads, {args.pairs} alternating pairs; {versions[0]} against {versions[1]}, fp32.",
        f"Prompt {args.prompt}, {args.tokens} new tokens; training batch {args.batch} x {args.seq_length}.",
        f"Command: `python benchmarks/compare.py {' '.join(sys.argv[1:])}`".rstrip(),
        "",
        "| work | ours, median (min-max) | torch, median (min-max) | ours is better by, median of pairs |",
        "|---|---|---|---|",
    ]
    for name, ours, peer, more_is_better in rows:
        ratios = [a / b if more_is_better else b / a for a, b in zip(ours, peer, strict=True)]
        cells = [f"{statistics.median(v):.4g} ({min(v):.4g}-{max(v):.4g})" for v in (ours, peer)]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {statistics.median(ratios):.2f}x |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="15m")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq-length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--markdown", type=Path, help="append the table to this file")
    args = parser.parse_args()

    ours: dict[str, list[dict[str, float]]] = {"generate": [], "train": []}
    peer: dict[str, list[dict[str, float]]] = {"generate": [], "train": []}
    for work in ("generate", "train"):
        for pair in range(args.pairs):
            print(f"{work}: pair {pair + 1} of {args.pairs}", file=sys.stderr, flush=True)
            ours[work].append(run_worker("ours.py", work, args))
            peer[work].append(run_worker("peer_torch.py", work, args))
    rows = [
        (name, [r[field] for r in ours[work]], [r[field] for r in peer[work]], more_is_better)
        for name, (work, field, more_is_better) in FIGURES.items()
    ]
    text = to_markdown(rows, (str(ours["train"][0]["version"]), str(peer["train"][0]["version"])), args)
    print(text)
    if args.markdown:
        with args.markdown.open("a", encoding="utf-8") as file:
            file.write("\n" + text)


if __name__ == "__main__":
    main()
