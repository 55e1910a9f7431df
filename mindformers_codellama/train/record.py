"""What training writes beside checkpoints: JSON lines, TensorBoard scalars, the loss as a PNG.

Each writer opens its file at the first point and is closed by `Recorder.close`. A resumed run appends
to the JSON lines, after taking out lines of steps that will be made again.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from mindformers_codellama.config.sections import TrainLogSection
from mindformers_codellama.errors import EnvironmentFault, TrainingError
from mindformers_codellama.train.monitor import StepReport

logger = logging.getLogger(__name__)

JSONL_NAME = "train.jsonl"
PLOT_NAME = "loss.png"


class Recorder:
    """Keeps the losses of a run and writes them where `train_log` says.

    Args:
        folder: `<output_dir>/log`; made when the first point is written.
        settings: section `train_log`.
        first_step: steps already done; later lines of an earlier attempt are dropped.
    """

    def __init__(self, folder: Path, settings: TrainLogSection, *, first_step: int = 0) -> None:
        self.folder = folder
        self.settings = settings
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.evals: list[tuple[int, float]] = []
        self._lines: TextIO | None = None
        self._scalars: Any = None
        for line in read_lines(folder / JSONL_NAME) if first_step else ():
            if line["step"] <= first_step:
                self._remember(line)
        self._first_step = first_step

    def step(self, report: StepReport) -> None:
        """Write one step."""
        line = {
            "step": report.step,
            "epoch": report.epoch,
            "loss": _number(report.loss),
            "learning_rate": report.learning_rate,
            "grad_norm": _number(report.grad_norm),
            "loss_scale": report.loss_scale,
            "overflow": report.overflow,
            "seconds": round(report.seconds_per_step, 6),
            "samples_per_second": round(report.samples_per_second, 3),
            "tokens_per_second": round(report.tokens_per_second, 1),
        }
        names = {"loss": "loss", "learning_rate": "learning-rate", "grad_norm": "grad-norm", "loss_scale": "loss-scale"}
        self._write(line, {names[key]: line[key] for key in names} | {"throughput": line["samples_per_second"]})

    def evaluation(self, step: int, *, loss: float, perplexity: float) -> None:
        """Write one evaluation."""
        line = {"step": step, "eval_loss": _number(loss), "perplexity": _number(perplexity)}
        self._write(line, {"eval-loss": line["eval_loss"], "perplexity": line["perplexity"]})

    def plot(self) -> Path | None:
        """Draw the loss so far; None when not asked for or nothing was recorded."""
        if not self.settings.plot or not self.losses:
            return None
        target = self.folder / PLOT_NAME
        picture = draw(self.steps, self.losses, self.evals)
        with _writing(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            temporary.write_bytes(picture)
            temporary.replace(target)
        return target

    def flush(self) -> None:
        """Bring what is written to the disk, so that a checkpoint never knows more steps than the log."""
        with _writing(self.folder):
            if self._lines:
                self._lines.flush()
                os.fsync(self._lines.fileno())
            if self._scalars:
                self._scalars.flush()

    def close(self) -> None:
        """Close every file; what a full disk keeps from being written is left out."""
        for file in (self._lines, self._scalars):
            with suppress(OSError):
                if file:
                    file.close()
        self._lines = self._scalars = None

    def _write(self, line: dict[str, Any], scalars: dict[str, Any]) -> None:
        self._remember(line)
        with _writing(self.folder):
            if self.settings.jsonl:
                if self._lines is None:
                    self._lines = _open_lines(self.folder / JSONL_NAME, keep_until=self._first_step)
                self._lines.write(json.dumps(line) + "\n")
                self._lines.flush()
            if self.settings.tensorboard:
                if self._scalars is None:
                    self._scalars = _open_scalars(self.folder / "tensorboard", purge_step=self._first_step + 1)
                for name, value in scalars.items():
                    if value is not None:
                        self._scalars.add_scalar(name, value, line["step"])

    def _remember(self, line: dict[str, Any]) -> None:
        if "loss" in line:
            self.steps.append(line["step"])
            self.losses.append(math.nan if line["loss"] is None else line["loss"])
        elif line.get("eval_loss") is not None:
            self.evals.append((line["step"], line["eval_loss"]))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failed write into an error that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "the disk is full." if full else f"cannot be written: {error.strerror or error}."
        fix = "free some space and go on with --resume." if full else "choose another output_dir."
        raise TrainingError(path, problem, fix=fix) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a JSON-lines log; a last line cut off by a kill is left out."""
    found = []
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("%s: a cut-off line was left out", path)
    return found


def draw(steps: Sequence[int], losses: Sequence[float], evals: Sequence[tuple[int, float]]) -> bytes:
    """The loss over steps, and the evaluations, as PNG bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    smoothed = len(losses) >= 20
    axes.plot(steps, losses, linewidth=0.8, alpha=0.45 if smoothed else 1.0, color="tab:blue", label="loss of a step")
    if not smoothed:
        axes.plot(steps, losses, ".", color="tab:blue")  # a single point makes no line
    if smoothed:
        window = max(5, len(losses) // 25)
        smooth = [_mean(losses[max(0, i - window + 1) : i + 1]) for i in range(len(losses))]
        axes.plot(steps, smooth, linewidth=1.8, color="tab:blue", label=f"mean of {window} steps")
    if evals:
        axes.plot([step for step, _ in evals], [loss for _, loss in evals], "o-", color="tab:orange", label="evaluation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _open_lines(path: Path, *, keep_until: int) -> TextIO:
    """Open for appending after removing what an earlier attempt wrote past `keep_until`; 0 starts anew and puts an older log aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not keep_until and path.is_file() and path.stat().st_size:
        ended = datetime.fromtimestamp(path.stat().st_mtime, tz=timezone.utc)
        path.replace(path.with_name(f"{path.stem}.{ended:%Y%m%dT%H%M%S}{path.suffix}"))
    kept = [line for line in read_lines(path) if line["step"] <= keep_until] if keep_until else []
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)
    return path.open("a", encoding="utf-8")


def _open_scalars(folder: Path, *, purge_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise EnvironmentFault(
            "train_log.tensorboard", "tensorboardX is missing.", fix="pip install tensorboardX, or write False."
        ) from error
    return SummaryWriter(str(folder), purge_step=purge_step)
