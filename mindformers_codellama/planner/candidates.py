"""Layouts a model can have on a number of ranks, and the same run in another layout or with other switches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mindformers_codellama.config.check_layout import layout_findings
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.layout.cuts import run_layout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.planner.rank_work import TRAINING_MODES, step_rows

MORE_GROUPS = 16
"""`gradient_aggregation_group` that is tried when the buffers of the data axis are too large."""


def candidate_runs(run: RunConfig, ranks: int) -> Iterator[tuple[Layout, RunConfig]]:
    """Every layout of `ranks` ranks whose degrees divide what they cut, with the run changed to it.

    Training keeps the rows of a step: micro batches are counted anew. Prediction and evaluation have no pipeline.
    """
    for stages in _divisors(ranks):
        for model in _divisors(ranks // stages):
            layout = Layout(data_parallel=ranks // stages // model, model_parallel=model, pipeline_stage=stages)
            changed = with_layout(run, layout)
            if changed is not None and not layout_findings(changed):
                yield layout, changed


def with_layout(run: RunConfig, layout: Layout) -> RunConfig | None:
    """The run in another layout; None when the rows of its step cannot be dealt so.

    A micro batch gets as many rows as before, or the most below that which divide the rows of a data rank.
    """
    mode = 1 if run.parallel.parallel_mode == 0 and layout.stage_ranks * layout.pipeline_stage > layout.data_parallel else None
    degrees = replace(
        run.parallel_config,
        data_parallel=layout.data_parallel,
        model_parallel=layout.model_parallel,
        pipeline_stage=layout.pipeline_stage,
        use_seq_parallel=run.parallel_config.use_seq_parallel and layout.model_parallel > 1,
    )
    runner = run.runner_config
    if run.run_mode in TRAINING_MODES:
        own = run_layout(run)
        total = step_rows(run, (own.data_parallel, own.model_parallel, own.pipeline_stage)).step_rows
        parts = run.micro_batch_interleave_num if run.use_parallel else 1
        cards = 1 if run.parallel.full_batch else layout.model_parallel * layout.pipeline_stage
        dealt = deal(total, layout.data_parallel, unit=parts * cards, most=runner.batch_size, least_micro=layout.pipeline_stage)
        if dealt is None:
            return None
        batch_size, micro = dealt
        in_pipeline = layout.pipeline_stage > 1
        runner = replace(runner, batch_size=batch_size, gradient_accumulation_steps=1 if in_pipeline else micro)
        degrees = replace(degrees, micro_batch_num=micro if in_pipeline else 1)
    else:
        degrees = replace(degrees, micro_batch_num=max(degrees.micro_batch_num, 1))
    parallel = run.parallel if mode is None else replace(run.parallel, parallel_mode=mode)
    interleave = run.micro_batch_interleave_num if run.use_parallel else 1
    return replace(
        run,
        use_parallel=run.use_parallel or layout.ranks > 1,
        parallel_config=degrees,
        runner_config=runner,
        parallel=parallel,
        micro_batch_interleave_num=interleave,
    )


def deal(total: int, data_ranks: int, *, unit: int, most: int, least_micro: int) -> tuple[int, int] | None:
    """(batch size, micro batches) that deal `total` rows over data ranks; None when nothing does.

    Args:
        total: rows of a step.
        data_ranks: ranks with rows of their own.
        unit: rows of a micro batch per unit of batch size.
        most: largest batch size.
        least_micro: fewest micro batches.
    """
    if total % (data_ranks * unit):
        return None
    left = total // (data_ranks * unit)
    found = next((size for size in range(min(most, left), 0, -1) if left % size == 0 and left // size >= least_micro), None)
    return None if found is None else (found, left // found)


def with_savings(run: RunConfig, layout: Layout) -> Iterator[tuple[tuple[str, ...], RunConfig]]:
    """The run with more and more switches that save memory, the cheapest first, and the keys that were changed."""
    changes: list[str] = []
    if run.run_mode not in TRAINING_MODES:
        if layout.model_parallel > 1 and run.parallel_config.vocab_emb_dp:
            yield ("parallel_config.vocab_emb_dp: False",), replace(run, parallel_config=replace(run.parallel_config, vocab_emb_dp=False))
        return
    data, model = layout.data_parallel > 1, layout.model_parallel > 1
    if data and not run.parallel.enable_parallel_optimizer:
        run = replace(run, parallel=replace(run.parallel, enable_parallel_optimizer=True))
        changes.append("parallel.enable_parallel_optimizer: True")
        yield tuple(changes), run
    if data and run.parallel_config.gradient_aggregation_group < MORE_GROUPS:
        run = replace(run, parallel_config=replace(run.parallel_config, gradient_aggregation_group=MORE_GROUPS))
        changes.append(f"parallel_config.gradient_aggregation_group: {MORE_GROUPS}")
        yield tuple(changes), run
    if model and layout.pipeline_stage == 1 and run.parallel_config.vocab_emb_dp:
        run = replace(run, parallel_config=replace(run.parallel_config, vocab_emb_dp=False))
        changes.append("parallel_config.vocab_emb_dp: False")
        yield tuple(changes), run
    if model and not run.parallel_config.use_seq_parallel and run.model.config.seq_length % layout.model_parallel == 0:
        run = replace(run, parallel_config=replace(run.parallel_config, use_seq_parallel=True))
        changes.append("parallel_config.use_seq_parallel: True")
        yield tuple(changes), run
    if not run.recompute_config.recompute and run.context.device_target != "CPU":
        run = replace(run, recompute_config=replace(run.recompute_config, recompute=True))
        changes.append("recompute_config.recompute: True")
        yield tuple(changes), run


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
