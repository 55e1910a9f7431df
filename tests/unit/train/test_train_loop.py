"""The loop over steps with a step that is made up: skipped updates, masked labels, an interrupt between two steps."""

import logging
import math
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mindformers_codellama.config.sections import RunConfig, TrainLogSection
from mindformers_codellama.errors import DataError, TrainingError
from mindformers_codellama.train import run as training
from mindformers_codellama.train.evaluate import EvalResult
from mindformers_codellama.train.loop import Parts, run_loop
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.progress import LogLines
from mindformers_codellama.train.record import Recorder
from mindformers_codellama.train.schedule import Schedule, run_length
from mindformers_codellama.train.state import TrainState
from mindformers_codellama.train.step import StepResult

FIXED = LossScale(value=1.0)
DYNAMIC = LossScale(value=65536.0, factor=2.0)


class Rows:
    """A source of six batches, all of them masked or none."""

    files = ("here",)

    def __init__(self, *, masked=False):
        row = np.arange(1, 10, dtype=np.int32)[None]
        self.batch = {"input_ids": row, "labels": np.full_like(row, -100) if masked else row}

    def epoch(self, epoch, *, start=0):
        return iter([self.batch] * (6 - start))


def parts_of(tmp_path, step, *, masked=False):
    length = run_length(epochs=20, data_size=6, sink_mode=False, sink_size=-1)
    return Parts(
        run=RunConfig(), step=step, update=None, source=Rows(masked=masked), length=length,
        schedule=Schedule(type="ConstantWarmUpLR", learning_rate=0.5, total_steps=length.total_steps),
        facts=None, run_id="r", recorder=Recorder(tmp_path, TrainLogSection(tensorboard=False, plot=False)),
        show=LogLines(per_print_times=0, sink_mode=False, sink_size=-1), folder=None,
    )  # fmt: skip


def overflowing_except(*good):
    """A step whose gradient is not finite, but for the steps named (from 1)."""
    made = []

    def step(batches, *, updates, learning_rate, scale):
        made.append(scale.value)
        fine = len(made) in good
        return StepResult(loss=2.0, grad_norm=1.0 if fine else math.nan, overflow=not fine)

    return step


@pytest.mark.parametrize(("scale", "good", "stops"), [(FIXED, (), 5), (FIXED, (4, 9), 14), (DYNAMIC, (), 16)])
def test_training_stops_when_skipping_leads_nowhere(tmp_path, scale, good, stops):
    message = rf"step {stops}: gradients overflowed \d+ times in a row \(learning rate 0.5, gradient norm nan\), .* of 1 cannot fall.*lower"
    with pytest.raises(TrainingError, match=message):
        run_loop(parts_of(tmp_path, overflowing_except(*good)), TrainState(scale=scale))


def test_a_dynamic_scale_that_finds_its_value_goes_on(tmp_path):
    state = run_loop(parts_of(tmp_path, overflowing_except(*range(11, 121))), TrainState(scale=DYNAMIC))
    assert (state.step, state.updates, state.scale.value) == (120, 110, 64.0)


def test_a_scale_that_falls_for_ever_stops_too(tmp_path):
    scale = LossScale(value=1e30, factor=1.01)
    with pytest.raises(TrainingError, match=r"step 50: gradients overflowed 50 times in a row .* did not help"):
        run_loop(parts_of(tmp_path, overflowing_except()), TrainState(scale=scale))


def test_masked_labels_are_told_before_the_first_step(tmp_path):
    def never(*args, **settings):
        raise AssertionError("a step was made")

    with pytest.raises(DataError, match=r"here: every label of the first 6 steps is masked: there is no token to learn"):
        run_loop(parts_of(tmp_path, never, masked=True), TrainState(scale=FIXED))


def test_an_interrupt_during_a_step_leaves_state_and_log_after_that_step(tmp_path):
    def step(batches, *, updates, learning_rate, scale):
        if updates == 2:
            signal.raise_signal(signal.SIGINT)  # the weights are changed, the count is not
        return StepResult(loss=2.0, grad_norm=1.0, overflow=False)

    parts = parts_of(tmp_path, step)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with SIGINT ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            run_loop(parts, TrainState(scale=FIXED))
    finally:
        signal.signal(signal.SIGINT, before)
    assert parts.state.step == parts.state.updates == 3
    assert parts.recorder.steps == [1, 2, 3]
    parts.recorder.close()


@pytest.mark.parametrize(
    ("intervals", "due"),
    [
        ({"eval_step_interval": 50, "eval_epoch_interval": -1}, [50, 100, 120]),
        ({"eval_step_interval": -1, "eval_epoch_interval": 8}, [48, 96, 120]),
        ({"eval_step_interval": 70, "eval_epoch_interval": 15}, [70, 90, 120]),
    ],
)
def test_evaluation_is_due_by_steps_by_passes_and_at_the_end(tmp_path, intervals, due):
    parts = parts_of(tmp_path, overflowing_except(*range(1, 121)))
    parts.run = replace(parts.run, **intervals)
    parts.evaluator = lambda: EvalResult(loss=1.0, perplexity=math.e, tokens=8, batches=1)
    run_loop(parts, TrainState(scale=FIXED))
    assert parts.recorder.evals == [(step, 1.0) for step in due]
    parts.recorder.close()


def test_the_line_of_sink_mode_tells_the_mean_time_of_its_steps(caplog):
    from test_monitor import report

    caplog.set_level(logging.INFO, logger="mindformers_codellama")
    show = LogLines(per_print_times=1, sink_mode=True, sink_size=2)
    for step, seconds in ((1, 1.0), (2, 3.0), (3, 0.1), (4, 0.3)):
        show.step(replace(report(step), seconds_per_step=seconds))
    times = [line.split("per_step_time: ")[1].split(",")[0] for line in caplog.messages if "per_step_time" in line]
    assert times == ["2000ms", "200ms"]
    assert "4.00 samples/s/p" in caplog.messages[1]


@pytest.mark.parametrize(("saved", "saves"), [(3, 1), (4, 0)], ids=["an earlier step is saved", "this step is saved"])
def test_an_interrupt_saves_what_is_not_saved_yet(tmp_path, monkeypatch, saved, saves):
    """A rank that hears it after the last save must not begin another: the other ranks are gone."""
    made = []

    def interrupted(parts, state):
        parts.state, parts.saved_step = replace(state, step=4), saved
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "run_loop", interrupted)
    monkeypatch.setattr(training, "save", lambda parts, state: made.append(state.step))
    parts = parts_of(tmp_path, None)
    parts.folder = SimpleNamespace(settings=SimpleNamespace(exception_save=True))
    with pytest.raises(KeyboardInterrupt):
        training._run_and_close(parts, TrainState(scale=FIXED))
    assert made == [4] * saves
