"""What one rank of a stage computes on one micro batch, in elements: the sizes every formula of the planner is made of."""

from __future__ import annotations

from dataclasses import dataclass

from mindformers_codellama.config.kernels_key import asked_for, fits_kernels
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.planner.devices import DEVICES, DeviceFacts

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
TRAINING_MODES = ("train", "finetune")


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """How the rows of a step are dealt, as training deals them (`train.batch_plan`; source: mindformers 1.0.2)."""

    rows: int
    """Rows of a micro batch on one data rank."""
    micro_steps: int
    """Micro batches per step: accumulated, or in a pipeline."""
    parts: int
    """Parts of a micro batch (`micro_batch_interleave_num`), computed one after the other."""
    data_ranks: int
    """Ranks with rows of their own."""

    @property
    def step_rows(self) -> int:
        """Rows of a step over all ranks."""
        return self.rows * self.micro_steps * self.data_ranks


def step_rows(run: RunConfig, layout_ranks: tuple[int, int, int]) -> StepRows:
    """Rows of a run at degrees (data, model, stage)."""
    data, model, stages = layout_ranks
    runner = run.runner_config
    if not run.use_parallel:
        return StepRows(rows=runner.batch_size, micro_steps=runner.gradient_accumulation_steps, parts=1, data_ranks=1)
    cards = 1 if run.parallel.full_batch else model * stages
    return StepRows(
        rows=runner.batch_size * run.micro_batch_interleave_num * cards,
        micro_steps=run.parallel_config.micro_batch_num if stages > 1 else runner.gradient_accumulation_steps,
        parts=run.micro_batch_interleave_num,
        data_ranks=data,
    )


@dataclass(frozen=True, kw_only=True)
class RankWork:
    """One forward (and backward) of the layers of one rank. Sizes are numbers of elements."""

    facts: DeviceFacts
    stage: int
    stages: int
    layers: int
    """Layers of the stage."""
    degree: int
    """Ranks that share each layer."""
    sequence: bool
    """Between layers a rank has its positions only (`use_seq_parallel`)."""
    cuts_vocabulary: bool
    recompute: bool
    tokens: int
    """B S: tokens computed at once."""
    stream: int
    """A = B S D, or B S D / degree with `sequence`: the residual stream."""
    gathered: int
    """B S D: what enters the matrices of a layer."""
    queries: int
    """Q = B S N H / degree."""
    keys: int
    """K = B S K H / degree; as many values."""
    scores: int
    """P = B N / degree S T."""
    inner: int
    """F = B S F / degree."""
    logits: int
    """B S V, / degree when the vocabulary is cut."""
    compute: int
    """Bytes of the compute type."""
    norm: int
    """Bytes of the type inside norms."""
    softmax: int
    """Bytes of the softmax's type."""
    rotary: int
    """Bytes of the rotation's type."""
    param: int
    """Bytes of the type of the weights."""
    sums: int = 0
    """B S N / degree: one sum of the softmax per query."""
    kernels: bool = False
    """The C++ kernels train and evaluate (`kernel_activations`)."""
    by_hand: bool = False
    """They train without a graph (`model.kernel_pass`): one rank has everything."""

    @property
    def first(self) -> bool:
        """Has the embedding."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Has the final norm and the head."""
        return self.stage == self.stages - 1

    @property
    def boundary(self) -> int:
        """Bytes of what a stage hands to the next: hidden states of a micro batch."""
        return self.compute * self.stream


def rank_work(run: RunConfig, where: ModelLayout, stage: int, *, rows: int, queries: int, keys: int) -> RankWork:
    """The work of a rank of a stage.

    Args:
        run: types and switches.
        where: the layout.
        stage: which stage.
        rows: B, rows computed at once.
        queries: S, positions computed at once.
        keys: T, positions attended over.
    """
    config, layout = where.config, where.layout
    degree = layout.model_parallel
    sequence = run.parallel_config.use_seq_parallel and degree > 1 and run.use_parallel
    tokens = rows * queries
    return RankWork(
        facts=DEVICES[run.context.device_target],
        stage=stage,
        stages=layout.pipeline_stage,
        layers=len(where.layers[stage]),
        degree=degree,
        sequence=sequence,
        cuts_vocabulary=where.cuts_vocabulary,
        recompute=run.recompute_config.recompute and run.run_mode in TRAINING_MODES and not plans_kernels(run),
        tokens=tokens,
        stream=tokens * config.hidden_size // (degree if sequence else 1),
        gathered=tokens * config.hidden_size,
        queries=tokens * config.num_heads * config.head_dim // degree,
        keys=tokens * config.num_kv_heads * config.head_dim // degree,
        scores=tokens * config.num_heads * keys // degree,
        inner=tokens * config.intermediate_size // degree,
        logits=tokens * config.vocab_size // (degree if where.cuts_vocabulary else 1),
        compute=BYTES[config.compute_dtype],
        norm=BYTES[config.layernorm_compute_dtype],
        softmax=BYTES[config.softmax_compute_dtype],
        rotary=BYTES[config.rotary_dtype],
        param=BYTES[config.param_init_dtype],
        sums=tokens * config.num_heads // degree,
        kernels=plans_kernels(run),
        by_hand=trains_by_hand(run, where),
    )


def plans_kernels(run: RunConfig) -> bool:
    """Whether a run trains or evaluates by the kernels, taken that their library is there."""
    asked = run.context.device_target == "CPU" and run.engine == "native" and asked_for(run.kernels)[1] != "off"
    return asked and fits_kernels(run.model.config) and run.run_mode in (*TRAINING_MODES, "eval")


def trains_by_hand(run: RunConfig, where: ModelLayout) -> bool:
    """Whether a run trains by the kernels without a graph."""
    return plans_kernels(run) and run.run_mode in TRAINING_MODES and where.layout.ranks == 1
