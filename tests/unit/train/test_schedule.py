"""Learning rate schedules against the values MindFormers printed and against their formulas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_codellama.errors import ConfigError
from mindformers_codellama.train.schedule import SCHEDULES, Schedule, resolve_warmup, run_length

# Printed by MindFormers' CosineWithWarmUpLR(1e-3, warmup_steps=3, total_steps=20) in float32 (1.0.2 and 1.9 agree up to step 20).
GOLDEN = {0: 0.0, 1: 3.3333e-4, 2: 6.6667e-4, 3: 1e-3, 10: 6.3683e-4, 19: 8.51e-6, 20: 0.0}


def cosine(**change):
    return Schedule(**({"type": "CosineWithWarmUpLR", "learning_rate": 1e-3, "warmup_steps": 3, "total_steps": 20} | change))


@pytest.mark.parametrize(("step", "rate"), GOLDEN.items())
def test_cosine_gives_the_rates_mindformers_printed(step, rate):
    assert cosine()(step) == pytest.approx(rate, rel=5e-4, abs=1e-9)  # the shortest was noted with three digits


def test_past_the_end_the_cosine_stays_at_lr_end_and_rises_only_when_the_old_behaviour_is_asked_for():
    assert cosine()(25) == 0.0
    assert cosine(lr_end=1e-5)(25) == 1e-5
    assert cosine(rises_again=True)(25) == pytest.approx(1.9868e-4, rel=1e-4)  # printed by MindFormers 1.0.2


def test_a_warm_up_one_step_off_would_be_seen():
    assert cosine(warmup_steps=4)(1) != pytest.approx(GOLDEN[1], rel=1e-3)


@pytest.mark.parametrize("name", SCHEDULES)
@given(warmup=st.integers(0, 30), total=st.integers(1, 60), step=st.integers(0, 100))
def test_every_schedule_stays_between_zero_and_the_learning_rate(name, warmup, total, step):
    rate = Schedule(type=name, learning_rate=0.1, warmup_steps=warmup, total_steps=total)(step)
    assert 0.0 <= rate <= 0.1 * (1 + 1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_starts_at_warmup_lr_init_and_ends_at_learning_rate(name):
    schedule = Schedule(type=name, learning_rate=0.1, warmup_steps=10, total_steps=50, warmup_lr_init=0.02)
    assert schedule(0) == 0.02
    assert schedule(5) == pytest.approx(0.06)
    assert schedule(10) == pytest.approx(0.1)


def test_linear_and_polynomial_and_restarts_follow_their_formulas():
    assert Schedule(type="LinearWithWarmUpLR", learning_rate=1.0, warmup_steps=10, total_steps=50)(40) == pytest.approx(0.25)
    square = Schedule(type="PolynomialWithWarmUpLR", learning_rate=1.0, lr_end=0.2, power=2.0, warmup_steps=10, total_steps=50)
    assert square(30) == pytest.approx(0.2 + 0.8 * 0.25)
    assert square(51) == 0.2
    twice = Schedule(type="CosineWithRestartsAndWarmUpLR", learning_rate=1.0, num_cycles=2, total_steps=40)
    assert twice(10) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert twice(20) == 1.0
    assert twice(40) == 0.0
    assert Schedule(type="ConstantWarmUpLR", learning_rate=1.0, total_steps=5)(500) == 1.0


def test_a_wrong_schedule_reports_every_finding_at_once():
    with pytest.raises(ConfigError, match=r"lr_schedule.type: got 'Cosine'. Fix: one of ConstantWarmUpLR"):
        Schedule(type="Cosine", learning_rate=1.0, total_steps=5)
    with pytest.raises(Exception, match=r"(?s)3 problems.*learning_rate.*total_steps.*warmup_steps"):
        Schedule(type="ConstantWarmUpLR", learning_rate=-1.0, total_steps=0, warmup_steps=-1)
    with pytest.raises(ConfigError, match="must be below learning_rate"):
        Schedule(type="PolynomialWithWarmUpLR", learning_rate=0.1, lr_end=0.1, total_steps=5)


def test_sink_mode_counts_epochs_of_sink_size_steps_and_drops_the_rest():
    assert run_length(epochs=2, data_size=10, sink_mode=False, sink_size=4).total_steps == 20
    assert run_length(epochs=2, data_size=10, sink_mode=True, sink_size=-1).total_steps == 20
    sunk = run_length(epochs=1, data_size=10, sink_mode=True, sink_size=4)
    assert (sunk.loop_epochs, sunk.total_steps) == (2, 8)
    assert sunk.loop_place(8) == (2, 4)
    assert sunk.data_place(8) == (1, 8)
    assert run_length(epochs=2, data_size=10, sink_mode=True, sink_size=4).data_place(20) == (2, 10)


def test_a_sink_size_that_would_run_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"runner_config.sink_size: got 100, but 2 epochs of 10 steps make only 20 steps."):
        run_length(epochs=2, data_size=10, sink_mode=True, sink_size=100)
    with pytest.raises(ConfigError, match=r"runner_config.sink_size: got 0"):
        run_length(epochs=2, data_size=10, sink_mode=True, sink_size=0)


def test_warmup_ratio_overrides_warmup_epochs_which_override_warmup_steps():
    given_all = {"warmup_steps": 7, "warmup_epochs": 2, "warmup_ratio": 0.03, "total_steps": 1000, "data_size": 50}
    assert resolve_warmup(**given_all) == 30
    assert resolve_warmup(**given_all | {"warmup_ratio": None}) == 100
    assert resolve_warmup(**given_all | {"warmup_ratio": None, "warmup_epochs": None}) == 7
    assert resolve_warmup(**given_all | {"warmup_ratio": None, "warmup_epochs": None, "warmup_steps": None}) == 0
    with pytest.raises(ConfigError, match=r"warmup_ratio: got 1.5"):
        resolve_warmup(**given_all | {"warmup_ratio": 1.5})
