"""How the rows of a step are dealt: over data ranks, micro batches, and parts of a micro batch.

A step's rows and their order are the same in every layout with the same numbers: `d` data ranks with micro batches of
`b` rows train as one process with micro batches of `d b`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.layout.cuts import run_layout


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The numbers of one step."""

    rows: int
    """Rows of a micro batch on one data rank."""
    micro_steps: int = 1
    """Micro batches per step: accumulated, or in flight in a pipeline."""
    parts: int = 1
    """Parts of a micro batch (`micro_batch_interleave_num`): row i belongs to part i modulo their number."""
    data_ranks: int = 1
    """Ranks with rows of their own."""
    ranks: int = 1
    """All ranks."""
    strided: bool = False
    """Data ranks take rows in turn (`full_batch: False`) instead of neighbouring ones."""

    @property
    def micro_rows(self) -> int:
        """Rows of a micro batch over all data ranks."""
        return self.rows * self.data_ranks

    @property
    def step_rows(self) -> int:
        """Rows of a step over all data ranks."""
        return self.micro_rows * self.micro_steps


def plan_batches(run: RunConfig) -> BatchPlan:
    """The numbers a configuration asks for.

    Source: mindformers 1.0.2. With `full_batch` a global micro batch has `batch_size` rows per data rank. Without it
    `batch_size` counts per card: the ranks of a data rank bring the rows of all of them. In a pipeline micro batches
    take the place of accumulation. Without `use_parallel` there are no parts.
    """
    runner, layout = run.runner_config, run_layout(run)
    if not run.use_parallel:
        return BatchPlan(rows=runner.batch_size, micro_steps=runner.gradient_accumulation_steps)
    cards = 1 if run.parallel.full_batch else layout.model_parallel * layout.pipeline_stage
    in_pipeline = layout.pipeline_stage > 1
    return BatchPlan(
        rows=runner.batch_size * run.micro_batch_interleave_num * cards,
        micro_steps=run.parallel_config.micro_batch_num if in_pipeline else runner.gradient_accumulation_steps,
        parts=run.micro_batch_interleave_num,
        data_ranks=layout.data_parallel,
        ranks=layout.ranks,
        strided=not run.parallel.full_batch,
    )
