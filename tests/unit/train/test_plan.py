"""From sections to numbers: schedule, loss scale, fingerprint of the data."""

from mindformers_codellama.config.sections import (
    CompatSection,
    DynamicLossScale,
    LrScheduleSection,
    OptimizerSection,
    RunConfig,
    RunnerWrapperSection,
)
from mindformers_codellama.train.plan import fingerprint, plan_scale, plan_schedule
from mindformers_codellama.train.schedule import run_length

LENGTH = run_length(epochs=2, data_size=50, sink_mode=False, sink_size=-1)


def test_the_schedule_covers_the_run_and_its_warm_up_is_a_share_of_it():
    section = LrScheduleSection(type="CosineWithWarmUpLR", learning_rate=1e-3, warmup_ratio=0.1)
    schedule = plan_schedule(RunConfig(lr_schedule=section, compat=CompatSection(cosine_rises_again=True)), LENGTH)
    assert (schedule.total_steps, schedule.warmup_steps, schedule.lr_end, schedule.rises_again) == (100, 10, 0.0, True)
    fixed = plan_schedule(RunConfig(lr_schedule=LrScheduleSection(type="PolynomialWithWarmUpLR", total_steps=40, warmup_epochs=1)), LENGTH)
    assert (fixed.total_steps, fixed.warmup_steps, fixed.lr_end) == (40, 50, 1e-7)


def test_without_a_schedule_the_optimizer_names_the_rate():
    assert plan_schedule(RunConfig(optimizer=OptimizerSection(learning_rate=0.25)), LENGTH)(99) == 0.25
    assert plan_schedule(RunConfig(), LENGTH)(99) == LrScheduleSection().learning_rate


def test_a_number_is_a_fixed_loss_scale_and_a_section_a_dynamic_one():
    assert not plan_scale(RunConfig(runner_wrapper=RunnerWrapperSection(scale_sense=1024.0))).dynamic
    scale = plan_scale(RunConfig(runner_wrapper=RunnerWrapperSection(scale_sense=DynamicLossScale())))
    assert (scale.value, scale.factor, scale.window) == (65536.0, 2.0, 1000)


def test_the_fingerprint_follows_contents_not_names(tmp_path):
    first, second, other = (tmp_path / name for name in "abc")
    first.write_bytes(b"x" * 5000)
    second.write_bytes(b"x" * 5000)
    other.write_bytes(b"x" * 4999 + b"y")
    assert fingerprint((first,)) == fingerprint((second,))
    assert fingerprint((first,)) != fingerprint((other,))
    assert fingerprint((first, other)) != fingerprint((other, first))
