"""The journey of training: configuration in, checkpoints and curves out."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from mindformers_codellama.checkpoint.load import load_into
from mindformers_codellama.config.check import require_runnable, require_single_process
from mindformers_codellama.config.sections import RunConfig, SummaryMonitor
from mindformers_codellama.errors import ConfigError, EnvironmentFault, TrainingError
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.runtime.context import enter_context
from mindformers_codellama.train.evaluate import EvalResult, open_evaluator
from mindformers_codellama.train.loop import Parts, run_loop, save
from mindformers_codellama.train.optimizer import AdamUpdate
from mindformers_codellama.train.plan import (
    build_network,
    build_step,
    build_update,
    open_train_batches,
    plan_length,
    plan_scale,
    plan_schedule,
    run_facts,
)
from mindformers_codellama.train.progress import Bar, LogLines, Show
from mindformers_codellama.train.record import Recorder
from mindformers_codellama.train.resume import ResumePoint, find_resume_point, other_branch, restore
from mindformers_codellama.train.save import CheckpointFolder
from mindformers_codellama.train.schedule import RunLength
from mindformers_codellama.train.state import RunFacts, TrainState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run leaves behind."""

    step: int
    """Steps done since the very start, resumed ones included."""
    updates: int
    """Optimizer updates among them."""
    loss: float
    """Loss of the last step."""
    losses: tuple[float, ...]
    """Loss of every recorded step, from the first."""
    evaluation: EvalResult | None
    """The last evaluation."""
    checkpoint: Path | None
    """The last resumable checkpoint."""
    network_checkpoint: Path | None
    """The weights alone."""
    plot: Path | None
    """PNG of the loss."""
    seconds: float
    """Wall time, compilation included."""
    tokens_per_second: float
    """Over the steps of this process, compilation included, pads included."""
    network: LlamaNetwork
    """With the trained weights."""


def train(run: RunConfig, *, force: bool = False, bar: bool = False) -> TrainResult:
    """Train as the configuration says: from initial weights, from a checkpoint, or from where a run stopped.

    Args:
        run: `run_mode` train or finetune.
        force: replace the checkpoints of another run in `output_dir`.
        bar: show a progress bar instead of log lines.

    Raises:
        CodeLlamaError: of the kind that fits; checkpoints already written stay.
    """
    started = time.perf_counter()
    require_runnable(run)
    require_single_process(run)
    point = resume_point(run)
    folder = open_folder(run, point, force=force)
    enter_context(run.context)
    source = open_train_batches(run)
    length = plan_length(run, source)
    schedule = plan_schedule(run, length)
    network = build_network(run)
    update = build_update(run, network)
    facts = run_facts(run, source)
    state, run_id, from_path = start_or_resume(run, point, network, update, facts)
    parts = Parts(
        run=run,
        step=build_step(run, network, update),
        update=update,
        source=source,
        length=length,
        schedule=schedule,
        facts=facts,
        run_id=run_id,
        recorder=open_recorder(run, state.step),
        show=open_show(run, length, state.step, bar=bar),
        folder=folder,
        evaluator=open_evaluator(run, network) if run.do_eval else None,
        last_saved=from_path,
    )
    _announce(parts, network, state)
    first = state.step
    state = _run_and_close(parts, state)
    seconds = time.perf_counter() - started
    tokens = (state.step - first) * facts.batch_size * facts.micro_steps * run.model.config.seq_length
    return TrainResult(
        step=state.step,
        updates=state.updates,
        loss=parts.last_loss,
        losses=tuple(parts.recorder.losses),
        evaluation=parts.last_eval,
        checkpoint=parts.last_saved,
        network_checkpoint=folder.network_file if folder and folder.network_file.exists() else None,
        plot=parts.recorder.plot(),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        network=network,
    )


def resume_point(run: RunConfig) -> ResumePoint | None:
    """The checkpoint to go on from; None for a run that starts anew. Errors as `find_resume_point`."""
    if not run.resume_training:
        return None
    monitor = run.checkpoint_monitor
    return find_resume_point(run.load_checkpoint, prefix=monitor.prefix if monitor else "")


def open_folder(run: RunConfig, point: ResumePoint | None, *, force: bool) -> CheckpointFolder | None:
    """Where checkpoints go, after checking that they can; None when no callback saves.

    Raises:
        ConfigError: the folder holds checkpoints of another run, or later ones than the resumed one.
        EnvironmentFault: `output_dir` cannot be written.
    """
    root = Path(run.output_dir).expanduser()
    monitor = run.checkpoint_monitor
    place = Path(monitor.directory).expanduser() if monitor and monitor.directory else root
    for path in {root, place}:
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / f".{secrets.token_hex(4)}.tmp"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise EnvironmentFault(
                "output_dir", f"{path} cannot be written: {error.strerror}.", fix="choose another output_dir."
            ) from error
    if monitor is None:
        return None
    folder = CheckpointFolder(place, monitor)
    if point is None:
        folder.refuse_foreign(force=force)
        return folder
    others = other_branch(point, folder.existing())
    if others and not force:
        problem = f"{folder.folder} holds {len(others)} checkpoints that are later than {point.path}, or of another run: {others[-1].name}."
        fix = "resume the newest (--resume), choose another output_dir, or give --force to replace them by what is trained now."
        raise ConfigError("output_dir", problem, fix=fix)
    folder.replace(others)
    return folder


def start_or_resume(
    run: RunConfig, point: ResumePoint | None, network: LlamaNetwork, update: AdamUpdate, facts: RunFacts
) -> tuple[TrainState, str, Path | None]:
    """Fill the weights; the state to start from, the run's id, and the checkpoint it was resumed from.

    Raises:
        CheckpointError: a checkpoint that cannot be read, is of another model, or cannot be resumed.
        TrainingError: a resumed run with other data.
    """
    if point is None:
        if run.start_weights:
            load_into(network, run.start_weights)
        return TrainState(scale=plan_scale(run)), secrets.token_hex(8), None
    state = restore(point, network, update, facts=facts, scale=plan_scale(run))
    logger.info("resumed from %s: %d steps and %d updates are done", point.path, state.step, state.updates)
    return state, point.saved.run_id or secrets.token_hex(8), point.path


def open_recorder(run: RunConfig, step: int) -> Recorder:
    """The writers of `train_log`; the SummaryMonitor callback chooses another folder."""
    summary = next((item.summary_dir for item in run.callbacks if isinstance(item, SummaryMonitor) and item.summary_dir), "")
    folder = Path(summary) if summary else Path(run.output_dir) / "log"
    return Recorder(folder.expanduser(), run.train_log, first_step=step)


def open_show(run: RunConfig, length: RunLength, step: int, *, bar: bool) -> Show:
    """A bar, or MindFormers' lines as often as `MFLossMonitor` says (never without it)."""
    if bar:
        return Bar(total=length.total_steps, done=step)
    runner, monitor = run.runner_config, run.loss_monitor
    return LogLines(per_print_times=monitor.per_print_times if monitor else 0, sink_mode=runner.sink_mode, sink_size=runner.sink_size)


def _run_and_close(parts: Parts, state: TrainState) -> TrainState:
    """The loop; whatever happens, the log is closed.

    With `exception_save` the state after the last step is written, but not when training itself went wrong: those
    weights lead nowhere, and would push out a good checkpoint.
    """
    if state.step >= parts.length.total_steps:
        problem = f"the run has {parts.length.total_steps} steps and {state.step} are done already."
        raise ConfigError("runner_config.epochs", problem, fix="raise epochs to train longer.")
    try:
        return run_loop(parts, state)
    except TrainingError:
        raise
    except BaseException:
        if parts.folder and parts.folder.settings.exception_save and parts.state and parts.state.step > state.step:
            logger.warning("training stops early; saving the state after step %d", parts.state.step)
            save(parts, parts.state)
        if parts.state:
            logger.warning("stopped after step %d; go on with --resume. Last complete checkpoint: %s", parts.state.step, parts.last_saved)
        raise
    finally:
        parts.show.close()
        parts.recorder.close()


def _announce(parts: Parts, network: LlamaNetwork, state: TrainState) -> None:
    weights = sum(parameter.size for parameter in network.trainable_params())
    runner, length = parts.run.runner_config, parts.length
    logger.info(
        "%s: %.2fM weights in %s; steps %d to %d of %d rows; the first step compiles the graph",
        parts.run.trainer.model_name or "model",
        weights / 1e6,
        parts.run.model.config.param_init_dtype,
        state.step + 1,
        length.total_steps,
        runner.batch_size * runner.gradient_accumulation_steps,
    )
