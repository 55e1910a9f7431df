"""From a configuration to the parts of a training run."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import mindspore as ms

from mindformers_codellama.config.sections import DynamicLossScale, LrScheduleSection, RunConfig
from mindformers_codellama.data.batches import BatchSource, open_batches
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.kernel_pass import KernelPass
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.model.part import network_part, sums_gradient_over_model
from mindformers_codellama.parallel.comm import ALONE, Axis, Comm
from mindformers_codellama.train.adapter import dropout_of
from mindformers_codellama.train.batch_plan import plan_batches
from mindformers_codellama.train.kernel_step import KernelMicroSteps
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate, decayed
from mindformers_codellama.train.pipeline import Pipeline
from mindformers_codellama.train.rank_step import Accumulator, MicroSteps, RankStep, RankUpdate, SummedRankUpdate, WholeRankStep
from mindformers_codellama.train.recompute import recompute
from mindformers_codellama.train.reduce import RowCut, SumGradients
from mindformers_codellama.train.schedule import RunLength, Schedule, resolve_warmup, run_length
from mindformers_codellama.train.shared_loss import SharedLoss
from mindformers_codellama.train.state import RunFacts
from mindformers_codellama.train.step import COLUMNS, TrainStep, empty_sums, gradients_of

logger = logging.getLogger(__name__)

HEAD_BYTES = 1 << 20
"""Bytes at the start and the end of a data file that its fingerprint covers."""


def open_train_batches(run: RunConfig, data_index: int = 0) -> BatchSource:
    """The micro batches of `train_dataset` with the rows of one rank of the data axis.

    Raises:
        DataError: as `open_batches`; or an epoch has fewer micro batches than one step needs.
    """
    config, plan = run.model.config, plan_batches(run)
    source = open_batches(
        run.train_dataset,
        batch_size=plan.rows,
        row_length=config.seq_length + 1,
        vocab_size=config.vocab_size,
        seed=run.seed,
        rank=data_index,
        world_size=plan.data_ranks,
        strided=plan.strided,
    )
    if source.batches_per_epoch < plan.micro_steps:
        problem = f"one epoch has {source.batches_per_epoch} micro batches, one step needs {plan.micro_steps}."
        in_pipeline = run.use_parallel and run.parallel_config.pipeline_stage > 1
        key = "parallel_config.micro_batch_num" if in_pipeline else "runner_config.gradient_accumulation_steps"
        raise ConfigError(key, problem, fix="lower it or batch_size, or prepare more data.")
    return source


def plan_length(run: RunConfig, source: BatchSource) -> RunLength:
    """Epochs and steps of the run; micro batches that do not fill a step at an epoch's end are left out."""
    runner = run.runner_config
    data_size = source.batches_per_epoch // plan_batches(run).micro_steps
    return run_length(epochs=runner.epochs, data_size=data_size, sink_mode=runner.sink_mode, sink_size=runner.sink_size)


def plan_schedule(run: RunConfig, length: RunLength) -> Schedule:
    """The learning rate schedule with every number resolved."""
    section = run.lr_schedule
    if section == LrScheduleSection() and run.optimizer.learning_rate is not None:
        return Schedule(type="ConstantWarmUpLR", learning_rate=run.optimizer.learning_rate, total_steps=length.total_steps)
    total_steps = length.total_steps if section.total_steps == -1 else section.total_steps
    warmup_steps = resolve_warmup(
        warmup_steps=section.warmup_steps,
        warmup_ratio=section.warmup_ratio,
        warmup_epochs=section.warmup_epochs,
        total_steps=total_steps,
        data_size=length.data_size,
    )
    default_end = 1e-7 if section.type == "PolynomialWithWarmUpLR" else 0.0
    return Schedule(
        type=section.type,
        learning_rate=section.learning_rate,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        warmup_lr_init=section.warmup_lr_init,
        lr_end=default_end if section.lr_end is None else section.lr_end,
        num_cycles=section.num_cycles,
        power=section.power,
        rises_again=run.compat.cosine_rises_again,
    )


def plan_scale(run: RunConfig) -> LossScale:
    """The loss scale of the first step."""
    sense = run.runner_wrapper.scale_sense
    if isinstance(sense, DynamicLossScale):
        return LossScale(value=sense.loss_scale_value, factor=sense.scale_factor, window=sense.scale_window)
    return LossScale(value=float(sense))


def build_network(run: RunConfig, comm: Comm, model_layout: ModelLayout) -> LlamaNetwork:
    """This rank's part of the network with initial weights, recomputing its blocks when asked."""
    part = network_part(model_layout, comm, sequence=run.parallel_config.use_seq_parallel)
    network = LlamaNetwork(run.model.config, part)
    if not run.start_weights:
        init_parameters(network, run.seed, model_layout=None if comm.is_alone else model_layout, rank=comm.rank)
    if run.recompute_config.recompute:
        recompute(network, run.recompute_config)
        if run.context.device_target == "CPU" and not network.uses_kernels:
            instead = "lower runner_config.batch_size and raise gradient_accumulation_steps instead"
            logger.warning("recompute_config.recompute: MindSpore's CPU backend computes again but needs no less memory; %s", instead)
    network.set_train()
    return network


def build_update(run: RunConfig, network: LlamaNetwork, comm: Comm, model_layout: ModelLayout) -> AdamUpdate:
    """The optimizer with empty moments: of this rank's weights, and of its rows of them where moments are cut."""
    section = run.optimizer
    settings = AdamSettings(type=section.type, beta1=section.beta1, beta2=section.beta2, eps=section.eps, weight_decay=section.weight_decay)
    parameters = network.trainable_params()
    if network.adapts:
        return AdamUpdate(parameters, settings)
    shapes = model_layout.shapes
    decay_of = dict(zip(shapes, decayed(tuple(shapes), tuple(shapes.values()), no_decay_leak=run.compat.no_decay_leak), strict=True))
    rows = RowCut(
        axis=comm.data,
        cut=tuple(model_layout.is_moment_cut(parameter.name) for parameter in parameters),
        groups=run.parallel_config.gradient_aggregation_group,
    )
    return AdamUpdate(parameters, settings, decays=[decay_of[parameter.name] for parameter in parameters], rows=rows)


def build_step(run: RunConfig, network: LlamaNetwork, update: AdamUpdate, comm: Comm, model_layout: ModelLayout) -> TrainStep | RankStep:
    """The compiled step (at its first call)."""
    wrapper, plan = run.runner_wrapper, plan_batches(run)
    columns = tuple(name for name in COLUMNS if name in run.train_dataset.input_columns)
    bound = wrapper.max_grad_norm if wrapper.use_clip_grad else None
    if comm.is_alone:
        return TrainStep(
            TrainingLoss(network),
            update,
            columns=columns,
            micro_steps=plan.micro_steps,
            parts=plan.parts,
            max_grad_norm=bound,
            dropout=dropout_of(run),
        )
    # mode 0: every rank has the mean of its own rows; otherwise shares of one mean over all rows
    own_means = run.parallel.parallel_mode == 0
    axis = ALONE if own_means else comm.data
    rank_update = _rank_update(run, network, update, comm, model_layout)
    whole: WholeRankStep | None = None
    accumulate: Accumulator | None = None
    summed: SummedRankUpdate | None = None
    if comm.stage.size == 1 and plan.micro_steps == 1 and not _trains_by_kernels(network):
        whole = WholeRankStep(gradients_of(SharedLoss(network, axis), columns, update.parameters, parts=plan.parts), rank_update)
    else:
        sums = empty_sums(update.parameters)
        summed = SummedRankUpdate(rank_update, sums)
        accumulate = _accumulator(network, update, sums, comm, columns=columns, axis=axis, parts=plan.parts)
    return RankStep(
        update,
        columns=columns,
        micro_steps=plan.micro_steps,
        averages=comm.data.size if own_means and run.parallel.gradients_mean else 1,
        loss_ranks=comm.data.size if own_means else 1,
        whole=whole,
        accumulate=accumulate,
        summed=summed,
    )


def _trains_by_kernels(network: LlamaNetwork) -> bool:
    """Whether a rank's gradients are made without a graph: of an adapter, where the kernels compute.

    In a graph the kernels would multiply by the sum of a weight and its adapter: one more copy of the weights, and with
    `compute_dtype: bfloat16` rounded together, which loses what an adapter says until it is large.
    """
    return network.adapts and KernelPass.fits(TrainingLoss(network))


def _accumulator(
    network: LlamaNetwork,
    update: AdamUpdate,
    sums: ms.ParameterTuple,
    comm: Comm,
    *,
    columns: tuple[str, ...],
    axis: Axis,
    parts: int,
) -> Accumulator:
    """What adds up the gradients of a rank's micro batches; the loss is a mean over `axis`."""
    if comm.stage.size > 1:
        return Pipeline(comm, network, parameters=update.parameters, sums=sums, columns=columns, axis=axis, parts=parts)
    if _trains_by_kernels(network):
        by_name = {parameter.name: each for parameter, each in zip(update.parameters, sums, strict=True)}
        return KernelMicroSteps(TrainingLoss(network), by_name, columns=columns, axis=axis, parts=parts)
    return MicroSteps(gradients_of(SharedLoss(network, axis), columns, update.parameters, parts=parts), sums)


def _rank_update(run: RunConfig, network: LlamaNetwork, update: AdamUpdate, comm: Comm, model_layout: ModelLayout) -> RankUpdate:
    """The part of a rank's step after the gradients. Of what several ranks hold alike, the first counts in the norm."""
    names = [parameter.name for parameter in update.parameters]
    counted = [
        (comm.model.index == 0 or model_layout.model_dim(name) is not None) and (comm.data.index == 0 or cut)
        for name, cut in zip(names, update.cut, strict=True)
    ]
    rows = RowCut(axis=comm.data, cut=update.cut, groups=run.parallel_config.gradient_aggregation_group)
    partial = [sums_gradient_over_model(name, network.part) for name in names]
    wrapper = run.runner_wrapper
    return RankUpdate(
        update,
        sums=SumGradients([tuple(parameter.shape) for parameter in update.parameters], comm.model, partial, rows),
        counted=counted,
        counts_loss=comm.model.index == 0,
        world=comm.world,
        max_grad_norm=wrapper.max_grad_norm if wrapper.use_clip_grad else None,
    )


def run_facts(run: RunConfig, source: BatchSource) -> RunFacts:
    """What a resumed run must share with this one, whatever its layout: rows of all data ranks are counted together."""
    section, plan = run.train_dataset, plan_batches(run)
    return RunFacts(
        rows=source.batches_per_epoch,
        batch_size=plan.micro_rows,
        micro_steps=plan.micro_steps,
        row_length=run.model.config.seq_length + 1,
        seed=run.seed if section.seed is None else section.seed,
        shuffle=section.data_loader.shuffle,
        columns=tuple(section.input_columns),
        data=fingerprint(source.files),
        optimizer=run.optimizer.type,
    )


def fingerprint(files: tuple[Path, ...]) -> str:
    """Hexadecimal digest of sizes and of both ends of the files, in order; names and folders do not count."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as handle:
            digest.update(handle.read(HEAD_BYTES))
            handle.seek(max(0, size - HEAD_BYTES))
            digest.update(handle.read(HEAD_BYTES))
    return digest.hexdigest()[:32]
