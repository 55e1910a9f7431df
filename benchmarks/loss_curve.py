"""Does training in bfloat16 learn as in float32? One model from the same weights and data, in several ways, step beside step.

    python benchmarks/loss_curve.py --shape 125m --steps 200 --folder CURVES      # hours on two cores; finished runs are kept
    python benchmarks/loss_curve.py --shape tiny --steps 20 --batch 2 --tokens 64 --folder CURVES

Runs: `ours-bfloat16` and `ours-float32` with the kernels, `ours-plain-float32` with plain operators, `torch-float32` and
`torch-bfloat16` (autocast) with transformers. The data are sentences of a random Markov chain over the vocabulary, new at every step, so
that there is something to learn; all runs see the same rows. Writes losses as JSON, a picture, and a table of the largest gaps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from jobs import EAGER, OURS, PLAIN, Job
from shapes import SHAPES

RUNS = {
    "ours-float32": (OURS, "float32"),
    "ours-bfloat16": (OURS, "bfloat16"),
    "ours-plain-float32": (PLAIN, "float32"),
    "torch-float32": (EAGER, "float32"),
    "torch-bfloat16": (EAGER, "bfloat16"),
}
REFERENCE = "ours-float32"
PEAK_RATE, WARM_UP = 3e-4, 20
"""Learning rate and the steps in which it grows to it."""
FOLLOWERS = 4
"""Tokens that may follow a token; the entropy of the data is the logarithm of this."""
SMOOTHED = 10
"""Steps of the moving average the gaps are also taken of."""


def batches(vocab_size: int, rows: int, tokens: int, steps: int) -> np.ndarray:
    """int32 `(steps, rows, tokens + 1)`: every token is followed by one of four, the first one more often than the others."""
    rng = np.random.default_rng(7)
    used = min(vocab_size, 4096)
    followers = rng.integers(3, used, (used, FOLLOWERS))
    choices = rng.choice(FOLLOWERS, (steps, rows, tokens + 1), p=(0.55, 0.25, 0.15, 0.05))
    out = np.empty((steps, rows, tokens + 1), np.int32)
    out[..., 0] = rng.integers(3, used, (steps, rows))
    for place in range(1, tokens + 1):
        out[..., place] = followers[out[..., place - 1], choices[..., place]]
    return out


def rate_at(step: int) -> float:
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP)


def train(name: str, job: Job, steps: int, folder: Path) -> list[float]:
    """Losses of one run; model files go to the folder."""
    rows = batches(SHAPES[job.shape].vocab_size, job.rows, job.tokens, steps)
    if job.engine == EAGER:
        import torch
        from training_torch import TorchTraining

        training = TorchTraining(job)
        data = [torch.from_numpy(row).long() for row in rows]
    else:
        from our_files import prepare
        from training_ours import OurTraining

        training = OurTraining(job, weights=prepare(folder, job.shape, "float32"))
        data = list(rows)
    losses = []
    for step, row in enumerate(data):
        losses.append(float(training.step(row, rate_at(step))))
        if step % 10 == 0 or sys.stderr.isatty():
            print(f"{name}: step {step + 1} of {steps}, loss {losses[-1]:.4f}", file=sys.stderr, flush=True)
    return losses


def smooth(losses: np.ndarray) -> np.ndarray:
    width = min(SMOOTHED, len(losses))
    return np.convolve(losses, np.ones(width) / width, "valid")


def table(found: dict[str, list[float]]) -> str:
    """Largest gaps from the reference, or from the first run when it is missing."""
    reference = REFERENCE if REFERENCE in found else next(iter(found))
    base = np.array(found[reference])
    lines = ["| run | first loss | last loss | largest gap of a step | largest gap of 10-step means |", "|---|---|---|---|---|"]
    for name, losses in found.items():
        values = np.array(losses)
        gap = float(np.abs(values - base).max())
        smoothed = float(np.abs(smooth(values) - smooth(base)).max())
        lines.append(f"| {name} | {values[0]:.4f} | {values[-1]:.4f} | {gap:.2g} | {smoothed:.2g} |")
    return "\n".join([f"Gaps are taken from {reference}, {len(base)} steps.", "", *lines])


def draw(found: dict[str, list[float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, losses in found.items():
        axes.plot(range(1, len(losses) + 1), losses, linewidth=0.9, label=name)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def arguments_from() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="125m")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "codellama_loss_curves")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch and transformers")
    parser.add_argument("--one", choices=RUNS, help=argparse.SUPPRESS)
    return parser.parse_args()


def file_of(arguments: argparse.Namespace, name: str) -> Path:
    return arguments.folder / f"{arguments.shape}-{arguments.batch}x{arguments.tokens}-{arguments.steps}-{name}.json"


def main() -> None:
    arguments = arguments_from()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        engine, form = RUNS[arguments.one]
        sizes = {"shape": arguments.shape, "rows": arguments.batch, "tokens": arguments.tokens, "threads": arguments.threads}
        losses = train(arguments.one, Job(engine=engine, work="training", form=form, **sizes), arguments.steps, arguments.folder)
        file_of(arguments, arguments.one).write_text(json.dumps(losses), encoding="utf-8")
        return
    found = {}
    for name in arguments.runs:
        path = file_of(arguments, name)
        if not path.exists():
            python = arguments.torch_python if name.startswith("torch") else sys.executable
            code = subprocess.run([python, __file__, *sys.argv[1:], "--one", name]).returncode
            if code:
                print(f"{name}: not run, exit code {code}", file=sys.stderr)
                continue
        found[name] = json.loads(path.read_text(encoding="utf-8"))
    if not found:
        sys.exit("no run finished")
    picture = arguments.folder / f"{arguments.shape}-{arguments.batch}x{arguments.tokens}-{arguments.steps}.png"
    draw(found, picture)
    print(f"{table(found)}\n\n{picture}")


if __name__ == "__main__":
    main()
