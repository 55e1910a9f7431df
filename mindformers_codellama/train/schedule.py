"""Learning rate as a pure function of the step, in float64; names and formulas of MindFormers' `lr_schedule`.

`step` counts optimizer updates already made, so the first update uses step 0. Warm-up is the same for all:
`warmup_lr_init + (learning_rate - warmup_lr_init) * step / warmup_steps` while `step < warmup_steps`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mindformers_codellama.errors import CodeLlamaError, ConfigError, raise_all


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One learning rate schedule with every step count resolved. Call it with a step to get the rate."""

    type: str
    """A key of `SCHEDULES`, MindFormers' class name."""
    learning_rate: float
    """Rate at the end of the warm-up."""
    total_steps: int
    """Updates of the whole run; the decay ends here."""
    warmup_steps: int = 0
    """Updates of the warm-up."""
    warmup_lr_init: float = 0.0
    """Rate at step 0 when there is a warm-up."""
    lr_end: float = 0.0
    """Rate at and after `total_steps`."""
    num_cycles: float | None = None
    """Cosine: waves in the decay, 0.5 by default (one descent). Restarts: number of descents, 1 by default."""
    power: float = 1.0
    """Polynomial: exponent of the part that remains."""
    rises_again: bool = False
    """Past `total_steps` follow the cosine up again, as MindFormers up to 1.0.2 did, instead of staying at `lr_end`."""

    def __post_init__(self) -> None:
        raise_all(self._findings())

    def _findings(self) -> list[CodeLlamaError]:
        found: list[CodeLlamaError] = []

        def refuse(key: str, problem: str, fix: str = "") -> None:
            found.append(ConfigError(f"lr_schedule.{key}", problem, fix=fix))

        if self.type not in SCHEDULES:
            refuse("type", f"got {self.type!r}.", f"one of {', '.join(SCHEDULES)}.")
        if not self.learning_rate >= 0:
            refuse("learning_rate", f"got {self.learning_rate}, must be at least 0.")
        if self.total_steps < 1:
            refuse("total_steps", f"got {self.total_steps}, must be at least 1, or -1 for the length of the run.")
        if self.warmup_steps < 0:
            refuse("warmup_steps", f"got {self.warmup_steps}, must be at least 0.")
        if self.type == "PolynomialWithWarmUpLR" and not self.learning_rate > self.lr_end:
            refuse("lr_end", f"got {self.lr_end}, must be below learning_rate ({self.learning_rate}).")
        return found

    def __call__(self, step: int) -> float:
        """Rate of the update after `step` updates (float64)."""
        if step < self.warmup_steps:
            return self.warmup_lr_init + (self.learning_rate - self.warmup_lr_init) * step / self.warmup_steps
        return SCHEDULES[self.type](self, step)

    @property
    def progress_steps(self) -> int:
        """Updates of the decay, at least 1."""
        return max(1, self.total_steps - self.warmup_steps)


def constant(schedule: Schedule, step: int) -> float:
    """`learning_rate` for ever."""
    return schedule.learning_rate


def linear(schedule: Schedule, step: int) -> float:
    """Straight down to 0 at `total_steps` (MindFormers' class has no `lr_end`)."""
    return schedule.learning_rate * max(0.0, (schedule.total_steps - step) / schedule.progress_steps)


def cosine(schedule: Schedule, step: int) -> float:
    """`lr_end + (learning_rate - lr_end) * (1 + cos(2 pi num_cycles progress)) / 2`."""
    if step >= schedule.total_steps and not schedule.rises_again:
        return schedule.lr_end
    cycles = 0.5 if schedule.num_cycles is None else schedule.num_cycles
    progress = (step - schedule.warmup_steps) / schedule.progress_steps
    share = max(0.0, 0.5 * (1.0 + math.cos(2.0 * math.pi * cycles * progress)))
    return schedule.lr_end + (schedule.learning_rate - schedule.lr_end) * share


def cosine_with_restarts(schedule: Schedule, step: int) -> float:
    """`num_cycles` descents, each starting at `learning_rate` again."""
    if step >= schedule.total_steps:
        return schedule.lr_end
    cycles = 1.0 if schedule.num_cycles is None else schedule.num_cycles
    progress = (step - schedule.warmup_steps) / schedule.progress_steps
    share = max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((cycles * progress) % 1.0))))
    return schedule.lr_end + (schedule.learning_rate - schedule.lr_end) * share


def polynomial(schedule: Schedule, step: int) -> float:
    """`lr_end + (learning_rate - lr_end) * (1 - progress) ** power`."""
    if step > schedule.total_steps:
        return schedule.lr_end
    remains = max(0.0, 1.0 - (step - schedule.warmup_steps) / schedule.progress_steps)
    return schedule.lr_end + (schedule.learning_rate - schedule.lr_end) * remains**schedule.power


SCHEDULES: Mapping[str, Callable[[Schedule, int], float]] = MappingProxyType(
    {
        "ConstantWarmUpLR": constant,
        "LinearWithWarmUpLR": linear,
        "CosineWithWarmUpLR": cosine,
        "CosineWithRestartsAndWarmUpLR": cosine_with_restarts,
        "PolynomialWithWarmUpLR": polynomial,
    }
)


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """How long a run is: the loop's epochs and steps, after the sink formula.

    In sink mode MindFormers calls `sink_size` steps one epoch, so a run has
    `int(data_size / sink_size * epochs)` of them and a rest shorter than `sink_size` steps is not run.
    """

    data_size: int
    """Steps in one pass over the dataset."""
    loop_epochs: int
    """Epochs as the loop and the checkpoint names count them."""
    loop_size: int
    """Steps of one such epoch."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.loop_epochs * self.loop_size

    def loop_place(self, step: int) -> tuple[int, int]:
        """(epoch, step in it), both from 1, of step number `step` (from 1), as checkpoint names count."""
        return (step - 1) // self.loop_size + 1, (step - 1) % self.loop_size + 1

    def data_place(self, step: int) -> tuple[int, int]:
        """(pass over the data, step in it), both from 1, of step number `step` (from 1)."""
        return (step - 1) // self.data_size + 1, (step - 1) % self.data_size + 1


def run_length(*, epochs: int, data_size: int, sink_mode: bool, sink_size: int) -> RunLength:
    """Resolve `runner_config` against the size of the dataset.

    Args:
        epochs: passes over the data asked for, at least 1.
        data_size: steps in one pass, at least 1.
        sink_mode: count epochs of `sink_size` steps.
        sink_size: steps of a sink epoch; -1 means one pass.

    Raises:
        ConfigError: `sink_size` is 0 or below -1, or so large that no step would run.
    """
    if not sink_mode or sink_size == -1:
        return RunLength(data_size=data_size, loop_epochs=epochs, loop_size=data_size)
    if sink_size < 1:
        raise ConfigError("runner_config.sink_size", f"got {sink_size}.", fix="-1 for one pass over the data, or at least 1.")
    loop_epochs = int(data_size / sink_size * epochs)
    if loop_epochs < 1:
        problem = f"got {sink_size}, but {epochs} epochs of {data_size} steps make only {epochs * data_size} steps."
        raise ConfigError("runner_config.sink_size", problem, fix="a smaller sink_size, more epochs, or sink_mode: False.")
    return RunLength(data_size=data_size, loop_epochs=loop_epochs, loop_size=sink_size)


def resolve_warmup(
    *, warmup_steps: int | None, warmup_ratio: float | None, warmup_epochs: int | None, total_steps: int, data_size: int
) -> int:
    """Steps of the warm-up: `warmup_ratio` of the total if given, else `warmup_epochs`, else `warmup_steps`, else 0.

    Raises:
        ConfigError: a ratio outside [0, 1] or a negative number of epochs.
    """
    if warmup_ratio is not None:
        if not 0.0 <= warmup_ratio <= 1.0:
            raise ConfigError("lr_schedule.warmup_ratio", f"got {warmup_ratio}, must be in [0, 1].")
        return int(total_steps * warmup_ratio)
    if warmup_epochs is not None:
        if warmup_epochs < 0:
            raise ConfigError("lr_schedule.warmup_epochs", f"got {warmup_epochs}, must be at least 0.")
        return int(warmup_epochs * data_size)
    return warmup_steps or 0
