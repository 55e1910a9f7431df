"""What a person sees of a step: MindFormers' log line, time left, the curve in the terminal.

Pure functions over `StepReport`; who writes them where is `record.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

BAR_WIDTH = 50
"""Characters of the progress bar in the log line."""
BLOCKS = "".join(chr(0x2581 + i) for i in range(8))
"""Unicode lower blocks, one eighth to full."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One finished step, or the last of a group in sink mode."""

    step: int
    """Steps done, from 1, skipped updates included."""
    total_steps: int
    """Steps of the whole run."""
    epoch: int
    """Pass over the data, from 1."""
    epochs: int
    """Passes of the run."""
    step_in_epoch: int
    """Steps done in this pass, from 1."""
    epoch_size: int
    """Steps of a pass."""
    loss: float
    """Mean token loss of the step."""
    mean_loss: float
    """Mean of `loss` since the epoch began."""
    learning_rate: float
    """Rate the step used."""
    grad_norm: float
    """Global norm before clipping."""
    loss_scale: float
    """Scale the step used."""
    overflow: bool
    """Whether the update was skipped."""
    seconds_per_step: float
    """Wall time of the step, or the mean of the group."""
    samples: float
    """Rows per step, divided by the number of ranks."""
    tokens: float
    """Tokens per step, pads included, divided by the number of ranks."""

    @property
    def samples_per_second(self) -> float:
        """Rows per second and rank."""
        return self.samples / max(self.seconds_per_step, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second and rank, pads included."""
        return self.tokens / max(self.seconds_per_step, 1e-9)


def log_line(report: StepReport, *, sink_mode: bool) -> str:
    """MindFormers' first line of a step: places, loss, time, rate, overflow, scale."""
    loss = f"loss: {report.loss:5.3f}, " if sink_mode else f"loss:[{report.loss:5.3f}/{report.mean_loss:5.3f}], "
    return (
        f"{{ Epoch:[{report.epoch:3d}/{report.epochs:3d}], step:[{report.step_in_epoch:5d}/{report.epoch_size:5d}], "
        f"{loss}per_step_time: {int(report.seconds_per_step * 1000)}ms, lr: {np.float32(report.learning_rate)!s}, "
        f"overflow cond: {report.overflow}, loss_scale: {float(report.loss_scale)}"
    )


def bar_line(report: StepReport, *, seconds_left: float) -> str:
    """MindFormers' second line: share done, bar, throughput, time left."""
    share = report.step / report.total_steps
    bar = chr(0x2588) * int(BAR_WIDTH * share)
    left = timedelta(seconds=int(seconds_left))
    return f"  {100 * share:4.1f}% |{bar:<{BAR_WIDTH}}| {report.samples_per_second:.2f} samples/s/p  {left} }}"


def thin(values: Sequence[float], count: int) -> list[float]:
    """At most `count` values: means of even stretches; values that are not finite are left out."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) <= count:
        return finite
    edges = np.linspace(0, len(finite), count + 1).astype(int)
    return [float(np.mean(finite[a:b])) for a, b in zip(edges, edges[1:], strict=False)]


def terminal_curve(values: Sequence[float], *, width: int = 60, height: int = 8, title: str = "loss") -> str:
    """The values as a block diagram of `height` text rows, with the range at the left; empty without finite values."""
    points = thin(values, width)
    if not points:
        return ""
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    eighths = [max(1, round((point - low) / span * height * 8)) for point in points]
    rows = []
    for row in range(height - 1, -1, -1):
        fills = [min(8, max(0, level - row * 8)) for level in eighths]
        label = f"{high:8.3f}" if row == height - 1 else f"{low:8.3f}" if row == 0 else " " * 8
        rows.append(f"{label} |" + "".join(BLOCKS[fill - 1] if fill else " " for fill in fills).rstrip())
    return "\n".join([f"{title}: {values[0]:.3f} at the start, {points[-1]:.3f} at the end", *rows])


class Stopwatch:
    """Seconds per step, smoothed, for the time left. The first step, which compiles, is left out once there are others."""

    def __init__(self, smoothing: float = 0.9) -> None:
        self.smoothing = smoothing
        self.mean: float | None = None
        self.seen = 0

    def add(self, seconds: float) -> None:
        """Take in the wall time of one step."""
        self.seen += 1
        if self.mean is None or self.seen == 2:
            self.mean = seconds
        else:
            self.mean = self.smoothing * self.mean + (1 - self.smoothing) * seconds

    def left(self, steps: int) -> float:
        """Seconds that `steps` more steps will take."""
        return (self.mean or 0.0) * steps
