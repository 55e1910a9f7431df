"""The loop over steps: read, step, watch, evaluate and save when due."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import mindspore as ms
import numpy as np

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.data.batches import Batch, BatchSource
from mindformers_codellama.errors import CodeLlamaError, DataError, TrainingError
from mindformers_codellama.parallel.agreement import fail_together
from mindformers_codellama.parallel.comm import SINGLE, Comm
from mindformers_codellama.train.batch_plan import plan_batches
from mindformers_codellama.train.evaluate import EvalResult, Evaluator
from mindformers_codellama.train.interrupts import StopRequests, interrupts_held
from mindformers_codellama.train.loss_scale import MINIMUM_SCALE
from mindformers_codellama.train.monitor import StepReport
from mindformers_codellama.train.optimizer import AdamUpdate
from mindformers_codellama.train.progress import Show
from mindformers_codellama.train.rank_step import RankStep
from mindformers_codellama.train.record import Recorder
from mindformers_codellama.train.save import CheckpointFolder
from mindformers_codellama.train.schedule import RunLength, Schedule
from mindformers_codellama.train.state import RunFacts, SavedState, TrainState
from mindformers_codellama.train.step import StepResult, TrainStep

logger = logging.getLogger(__name__)

MOST_SKIPPED = 50
"""Updates skipped in a row after which training stops; a dynamic scale of 65536 reaches 1 after 16."""
MOST_SKIPPED_STUCK = 5
"""The same when the loss scale is fixed or at its minimum, so that skipping leads nowhere."""
MASKED_PATIENCE = 20
"""First steps that must hold a trained token."""


@dataclass
class Parts:
    """What the loop works with."""

    run: RunConfig
    step: TrainStep | RankStep
    update: AdamUpdate
    source: BatchSource
    length: RunLength
    schedule: Schedule
    facts: RunFacts
    run_id: str
    recorder: Recorder
    show: Show
    folder: CheckpointFolder | None
    """None when no callback saves."""
    evaluator: Evaluator | None = None
    """None when `do_eval` is False."""
    state: TrainState | None = None
    """After the last finished step."""
    last_saved: Path | None = None
    """The last complete checkpoint."""
    saved_step: int = -1
    """The step it was saved after; -1 before the first save of this process."""
    last_loss: float = math.nan
    """Loss of the last step."""
    last_eval: EvalResult | None = None
    """The last evaluation."""
    comm: Comm = SINGLE
    """This process among the ranks."""


def run_loop(parts: Parts, state: TrainState) -> TrainState:
    """Make every step from `state` to the end of the run.

    Raises:
        TrainingError: a loss that is not a number, updates skipped for ever, or a save that failed.
        DataError: rows that train on no token.
    """
    if not state.step:
        _refuse_masked(parts)
    if parts.comm.is_alone:
        return _run(parts, state, None)
    with StopRequests() as stops:
        return _run(parts, state, stops)


def _run(parts: Parts, state: TrainState, stops: StopRequests | None) -> TrainState:
    """The steps. One process holds interrupts back during a step; ranks stop together, after the step that told them."""
    clock = saved_at = time.perf_counter()
    for batches in micro_batches(parts, state.step):
        with interrupts_held() if stops is None else nullcontext():
            report, stop, state = _make_step(parts, state, batches, clock, stop=stops is not None and stops.asked)
        parts.show.step(report)
        if stops is not None and stop:
            stops.obey()
        _guard_skips(parts, state, report)
        last = state.step == parts.length.total_steps
        if parts.evaluator and (last or _eval_due(parts, state.step)):
            _evaluate(parts, state)
        if parts.folder and (last or _save_due(parts, state.step, time.perf_counter() - saved_at)):
            save(parts, state)
            saved_at = time.perf_counter()
        clock = time.perf_counter()
    return state


def micro_batches(parts: Parts, step: int) -> Iterator[list[Batch]]:
    """The micro batches of each step after `step`, to the end of the run."""
    micro_steps, length = plan_batches(parts.run).micro_steps, parts.length
    while step < length.total_steps:
        epoch, start = divmod(step, length.data_size)
        batches = parts.source.epoch(epoch, start=start * micro_steps)
        while step < length.total_steps and step // length.data_size == epoch:
            yield list(islice(batches, micro_steps))
            step += 1


def save(parts: Parts, state: TrainState) -> None:
    """Write one checkpoint; the log is brought to the disk before it."""
    assert parts.folder, "nothing to save to"
    parts.recorder.flush()
    started = time.perf_counter()
    random = {"mindspore": ms.get_rng_state().asnumpy().tobytes().hex()}
    saved = SavedState(state=state, facts=parts.facts, random=random, run_id=parts.run_id)
    parts.last_saved = parts.folder.save(parts.update, saved, parts.length.loop_place(state.step))
    parts.saved_step = state.step
    parts.recorder.plot()
    logger.info("saved %s in %.1f s", parts.last_saved, time.perf_counter() - started)


def trained_tokens(batch: Batch, config: ModelConfig) -> int:
    """Positions of a batch whose next token is trained on (segment borders not looked at)."""
    labels = batch.get("labels", batch["input_ids"])[:, 1:]
    return int(np.count_nonzero((batch["input_ids"][:, :-1] != config.pad_token_id) & (labels != config.ignore_token_id)))


def _make_step(
    parts: Parts, state: TrainState, batches: list[Batch], clock: float, *, stop: bool = False
) -> tuple[StepReport, bool, TrainState]:
    """One step and its line in the log, and whether to stop; `clock` is when the one before was done."""
    rate, scale = parts.schedule(state.updates), state.scale
    if isinstance(parts.step, RankStep):
        result = parts.step(batches, updates=state.updates, learning_rate=rate, scale=scale, stop=stop)
    else:
        result = parts.step(batches, updates=state.updates, learning_rate=rate, scale=scale)
    _guard_loss(result, parts, state, rate)
    report = _report(parts, state, result, rate, time.perf_counter() - clock)
    epoch_ends = (state.step + 1) % parts.length.data_size == 0
    parts.state = state.after(loss=result.loss, overflow=result.overflow, epoch_ends=epoch_ends)
    parts.last_loss = result.loss
    parts.recorder.step(report)
    return report, result.stop, parts.state


def _refuse_masked(parts: Parts) -> None:
    """Look for a trained token before anything is compiled; the first batch has one, as a rule."""
    steps = min(MASKED_PATIENCE, parts.length.data_size, parts.length.total_steps)
    first = islice(parts.source.epoch(0), steps * plan_batches(parts.run).micro_steps)
    some = any(trained_tokens(batch, parts.run.model.config) for batch in first)
    if any(parts.comm.gather_objects(some)):
        return
    problem = f"every label of the first {steps} steps is masked: there is no token to learn."
    fix = "prepare the data again and read the counts it prints; check input_columns."
    _fail(parts, DataError(parts.source.files[0], problem, fix=fix))


def _fail(parts: Parts, error: CodeLlamaError) -> None:
    """Raise what every rank finds at the same place, told by one."""
    fail_together(None if parts.comm.is_alone else parts.comm, error, doing="training")


def _guard_loss(result: StepResult, parts: Parts, state: TrainState, rate: float) -> None:
    if math.isfinite(result.loss):
        return
    facts = f"loss is {result.loss} (learning rate {rate:.3g}, loss scale {state.scale.value:g}, gradient norm {result.grad_norm:g})."
    advice = "lower lr_schedule.learning_rate, lengthen the warm-up, or set runner_wrapper.use_clip_grad: True"
    if parts.run.model.config.compute_dtype == "float16":
        advice += "; float16 overflows above 65504: try float32"
    where = f"step {state.step + 1}"
    _fail(parts, TrainingError(where, facts, fix=f"{advice}. {_last_good(parts)}"))


def _guard_skips(parts: Parts, state: TrainState, report: StepReport) -> None:
    stuck = not state.scale.dynamic or state.scale.value <= MINIMUM_SCALE
    if state.skipped_in_a_row < (MOST_SKIPPED_STUCK if stuck else MOST_SKIPPED):
        return
    facts = f"learning rate {report.learning_rate:.3g}, gradient norm {report.grad_norm:g}"
    problem = f"gradients overflowed {state.skipped_in_a_row} times in a row ({facts}), and a loss scale of {state.scale.value:g} " + (
        "cannot fall." if stuck else "did not help."
    )
    advice = "lower lr_schedule.learning_rate or lengthen the warm-up"
    if parts.run.model.config.compute_dtype == "float16":
        advice += "; for float16 a smaller or dynamic runner_wrapper.scale_sense, or float32"
    _fail(parts, TrainingError(f"step {state.step}", problem, fix=f"{advice}. {_last_good(parts)}"))


def _last_good(parts: Parts) -> str:
    saved = parts.last_saved or "none in this run"
    return f"Last complete checkpoint: {saved}."


def _report(parts: Parts, before: TrainState, result: StepResult, rate: float, seconds: float) -> StepReport:
    runner, length = parts.run.runner_config, parts.length
    epoch, step_in_epoch = length.data_place(before.step + 1)
    plan = plan_batches(parts.run)
    samples = plan.step_rows / plan.ranks
    return StepReport(
        step=before.step + 1,
        total_steps=length.total_steps,
        epoch=epoch,
        epochs=runner.epochs,
        step_in_epoch=step_in_epoch,
        epoch_size=length.data_size,
        loss=result.loss,
        mean_loss=(before.epoch_loss_sum + result.loss) / step_in_epoch,
        learning_rate=rate,
        grad_norm=result.grad_norm,
        loss_scale=before.scale.value,
        overflow=result.overflow,
        seconds_per_step=seconds,
        samples=samples,
        tokens=samples * parts.run.model.config.seq_length,
    )


def _eval_due(parts: Parts, step: int) -> bool:
    run, size = parts.run, parts.length.data_size
    by_step = run.eval_step_interval > 0 and step % run.eval_step_interval == 0
    by_epoch = run.eval_epoch_interval > 0 and step % (size * run.eval_epoch_interval) == 0
    return by_step or by_epoch


def _evaluate(parts: Parts, state: TrainState) -> None:
    assert parts.evaluator, "nothing to evaluate on"
    parts.last_eval = parts.evaluator()
    parts.recorder.evaluation(state.step, loss=parts.last_eval.loss, perplexity=parts.last_eval.perplexity)
    parts.show.note(f"eval at step {state.step}: loss {parts.last_eval.loss:.4f}, PPL {parts.last_eval.perplexity:.3f}")


def _save_due(parts: Parts, step: int, seconds: float) -> bool:
    """In sink mode MindFormers looks only at the end of each sink epoch, so a save waits for it."""
    assert parts.folder, "nothing to save to"
    settings, runner = parts.folder.settings, parts.run.runner_config
    group = runner.sink_size if runner.sink_mode and runner.sink_size > 0 else 1
    if step % group:
        return False
    if settings.save_checkpoint_seconds:  # rank 0's clock counts
        return bool(parts.comm.gather_objects(seconds >= settings.save_checkpoint_seconds)[0])
    return step // settings.save_checkpoint_steps > (step - group) // settings.save_checkpoint_steps
