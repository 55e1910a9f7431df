"""From a configuration to the parts of a training run."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from mindformers_codellama.config.sections import DynamicLossScale, LrScheduleSection, RunConfig
from mindformers_codellama.data.batches import BatchSource, open_batches
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.schedule import RunLength, Schedule, resolve_warmup, run_length
from mindformers_codellama.train.state import RunFacts
from mindformers_codellama.train.step import TrainStep

logger = logging.getLogger(__name__)

HEAD_BYTES = 1 << 20
"""Bytes at the start and the end of a data file that its fingerprint covers."""


def open_train_batches(run: RunConfig) -> BatchSource:
    """The micro batches of `train_dataset`.

    Raises:
        DataError: as `open_batches`; or an epoch has fewer micro batches than one step needs.
    """
    config, runner = run.model.config, run.runner_config
    source = open_batches(
        run.train_dataset, batch_size=runner.batch_size, row_length=config.seq_length + 1, vocab_size=config.vocab_size, seed=run.seed
    )
    if source.batches_per_epoch < runner.gradient_accumulation_steps:
        problem = f"one epoch has {source.batches_per_epoch} micro batches, one step needs {runner.gradient_accumulation_steps}."
        raise ConfigError("runner_config.gradient_accumulation_steps", problem, fix="lower it or batch_size, or prepare more data.")
    return source


def plan_length(run: RunConfig, source: BatchSource) -> RunLength:
    """Epochs and steps of the run; micro batches that do not fill a step at an epoch's end are left out."""
    runner = run.runner_config
    data_size = source.batches_per_epoch // runner.gradient_accumulation_steps
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


def build_network(run: RunConfig) -> LlamaNetwork:
    """The network with initial weights, recomputing its blocks when asked."""
    network = LlamaNetwork(run.model.config)
    if not run.start_weights:
        init_parameters(network, run.seed)
    if run.recompute_config.recompute:
        network.recompute_blocks()
        if run.context.device_target == "CPU":
            instead = "lower runner_config.batch_size and raise gradient_accumulation_steps instead"
            logger.warning("recompute_config.recompute: MindSpore's CPU backend computes again but frees nothing; %s", instead)
    network.set_train()
    return network


def build_update(run: RunConfig, network: LlamaNetwork) -> AdamUpdate:
    """The optimizer with empty moments."""
    section = run.optimizer
    settings = AdamSettings(type=section.type, beta1=section.beta1, beta2=section.beta2, eps=section.eps, weight_decay=section.weight_decay)
    return AdamUpdate(network.trainable_params(), settings, no_decay_leak=run.compat.no_decay_leak)


def build_step(run: RunConfig, network: LlamaNetwork, update: AdamUpdate) -> TrainStep:
    """The compiled step (at its first call)."""
    wrapper = run.runner_wrapper
    return TrainStep(
        TrainingLoss(network),
        update,
        columns=run.train_dataset.input_columns,
        micro_steps=run.runner_config.gradient_accumulation_steps,
        max_grad_norm=wrapper.max_grad_norm if wrapper.use_clip_grad else None,
    )


def run_facts(run: RunConfig, source: BatchSource) -> RunFacts:
    """What a resumed run must share with this one."""
    section = run.train_dataset
    return RunFacts(
        rows=source.batches_per_epoch,
        batch_size=run.runner_config.batch_size,
        micro_steps=run.runner_config.gradient_accumulation_steps,
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
