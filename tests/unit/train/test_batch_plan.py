"""How a step's rows are dealt, against the contract's formulas written out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindformers_codellama.config.check import global_batch
from mindformers_codellama.config.sections import ParallelConfigSection, ParallelSection, RunConfig, RunnerConfigSection
from mindformers_codellama.train.batch_plan import plan_batches

SMALL = st.integers(1, 4)


@st.composite
def runs(draw):
    degrees = ParallelConfigSection(
        data_parallel=draw(SMALL), model_parallel=draw(SMALL), pipeline_stage=draw(SMALL), micro_batch_num=draw(st.integers(4, 9))
    )
    section = ParallelSection(parallel_mode=draw(st.sampled_from([0, 1])), full_batch=draw(st.booleans()))
    runner = RunnerConfigSection(batch_size=draw(SMALL), gradient_accumulation_steps=draw(SMALL))
    return RunConfig(
        use_parallel=draw(st.booleans()),
        parallel_config=degrees,
        parallel=section,
        runner_config=runner,
        micro_batch_interleave_num=draw(SMALL),
    )


@given(runs())
def test_a_step_has_the_rows_the_configuration_is_explained_with(run):
    assert plan_batches(run).step_rows == global_batch(run)


@given(runs())
def test_the_rows_are_those_of_the_contract(run):
    """MindFormers 1.0: bs*dp*micro*interleave in a pipeline, bs*dp*interleave*accumulation without; per card times all cards."""
    runner, degrees = run.runner_config, run.parallel_config
    accumulation, interleave = runner.gradient_accumulation_steps, run.micro_batch_interleave_num
    if not run.use_parallel:
        rows = runner.batch_size * accumulation
    elif run.parallel.parallel_mode == 0:
        rows = runner.batch_size * accumulation * interleave * degrees.ranks
    else:
        steps = degrees.micro_batch_num if degrees.pipeline_stage > 1 else accumulation
        rows = runner.batch_size * steps * interleave * (degrees.data_parallel if run.parallel.full_batch else degrees.ranks)
    assert plan_batches(run).step_rows == rows


def test_layouts_with_the_same_micro_batches_have_the_same_numbers():
    def plan(data, model, stages, *, batch, micro=1, accumulate=1):
        degrees = ParallelConfigSection(data_parallel=data, model_parallel=model, pipeline_stage=stages, micro_batch_num=micro)
        runner = RunnerConfigSection(batch_size=batch, gradient_accumulation_steps=accumulate)
        return plan_batches(RunConfig(use_parallel=True, parallel_config=degrees, runner_config=runner))

    plans = [plan(2, 2, 2, batch=2, micro=4), plan(1, 1, 1, batch=4, accumulate=4), plan(4, 1, 1, batch=1, accumulate=4)]
    assert {(p.micro_rows, p.micro_steps) for p in plans} == {(4, 4)}
    assert [p.rows for p in plans] == [2, 4, 1]


@pytest.mark.parametrize(("full", "strided"), [(True, False), (False, True)])
def test_without_a_full_batch_rows_are_taken_in_turn(full, strided):
    run = RunConfig(use_parallel=True, parallel=ParallelSection(full_batch=full))
    assert plan_batches(run).strided is strided
    assert not plan_batches(replace(run, use_parallel=False)).strided
