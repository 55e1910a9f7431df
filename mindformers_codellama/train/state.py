"""What a run is besides weights and moments, and how it is written into a checkpoint.

A checkpoint is one `.ckpt` (or safetensors) file that appears by a rename, so it is whole or absent.
MindFormers' entries are kept (`global_step`, `scale_sense`, `epoch_num`, `step_num`, `loss_scale`, and the
counters of the loss scale); ours is one text, `codellama_train_state`, written last: a file without it
and without MindFormers' entries cannot be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.train.loss_scale import LossScale

STATE_KEY = "codellama_train_state"
STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands between two steps."""

    step: int = 0
    """Steps done, skipped updates included; decides the place in the data."""
    updates: int = 0
    """Optimizer updates done; decides learning rate and bias correction. MindFormers' `global_step`."""
    scale: LossScale
    """Loss scale of the next step."""
    skipped_in_a_row: int = 0
    """Updates skipped since the last one that was made."""
    epoch_loss_sum: float = 0.0
    """Sum of step losses since the epoch began, for the mean in the log line."""

    def after(self, *, loss: float, overflow: bool, epoch_ends: bool) -> TrainState:
        """The state once a step is done."""
        return replace(
            self,
            step=self.step + 1,
            updates=self.updates + (not overflow),
            scale=self.scale.after(overflow=overflow),
            skipped_in_a_row=self.skipped_in_a_row + 1 if overflow else 0,
            epoch_loss_sum=0.0 if epoch_ends else self.epoch_loss_sum + loss,
        )


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a resumed run must share with the stopped one for its data position to mean the same."""

    rows: int
    """Micro batches per pass over the data."""
    batch_size: int
    """Rows per micro batch."""
    micro_steps: int
    """Micro batches per step."""
    row_length: int
    """Ids per row."""
    seed: int
    """Seed of the order."""
    shuffle: bool
    """Whether rows are shuffled."""
    columns: tuple[str, ...]
    """Columns read."""
    data: str
    """Fingerprint of the data files."""
    optimizer: str
    """Type of the optimizer."""
    adapter: str = ""
    """Settings of the adapter that is trained, and a digest of the weights below it; empty when the weights are trained."""

    def differences(self, other: RunFacts, *, by_step: bool = False) -> dict[str, tuple[Any, Any]]:
        """Field to (here, there) where two runs differ.

        Args:
            other: the stopped run.
            by_step: count rows per step and steps per epoch, however a step is made of micro batches. Another layout may
                have to split it otherwise (a pipeline needs micro batches), and the place in the data is the same.
        """
        mine, theirs = (facts._by_step() if by_step else asdict(facts) for facts in (self, other))
        return {key: (mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]}

    def _by_step(self) -> dict[str, Any]:
        values = asdict(self)
        rows, batch_size, micro_steps = (values.pop(key) for key in ("rows", "batch_size", "micro_steps"))
        return values | {"rows per step": batch_size * micro_steps, "steps per epoch": rows // micro_steps}


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """Everything in a checkpoint that is not a tensor of the model's size."""

    state: TrainState
    facts: RunFacts | None = None
    """None in a checkpoint that MindFormers wrote."""
    random: Mapping[str, str] = field(default_factory=dict)
    """States of random number generators, as hexadecimal bytes."""
    run_id: str = ""
    """Names the run; kept when it is resumed."""


def state_text(saved: SavedState) -> str:
    """JSON of a `SavedState`, floats exact."""
    values = asdict(saved) | {"version": STATE_VERSION}
    return json.dumps(values, sort_keys=True)


def read_state_text(text: str, *, where: object) -> SavedState:
    """The inverse of `state_text`.

    Raises:
        CheckpointError: damaged, or written by a later version.
    """
    try:
        values = json.loads(text)
        if values["version"] > STATE_VERSION:
            raise CheckpointError(
                where, f"was written by a later version of this package (state version {values['version']}).", fix="update it."
            )
        state = dict(values["state"])
        state["scale"] = LossScale(**state["scale"])
        facts = values["facts"] and RunFacts(**values["facts"] | {"columns": tuple(values["facts"]["columns"])})
        return SavedState(state=TrainState(**state), facts=facts, random=values["random"], run_id=values["run_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(where, f"has a damaged {STATE_KEY} ({error}).", fix="resume from an earlier checkpoint.") from error
