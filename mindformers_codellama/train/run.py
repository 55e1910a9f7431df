"""The journey of training: configuration in, checkpoints and curves out."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from mindformers_codellama.config.check import require_runnable
from mindformers_codellama.config.sections import RunConfig, SummaryMonitor, TrainLogSection
from mindformers_codellama.errors import ConfigError, TrainingError
from mindformers_codellama.layout.cuts import ModelLayout, run_layout, run_model_layout
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.parallel.agreement import together
from mindformers_codellama.parallel.comm import Comm, join
from mindformers_codellama.train.adapter import open_adapter
from mindformers_codellama.train.batch_plan import plan_batches
from mindformers_codellama.train.device import enter_run
from mindformers_codellama.train.evaluate import EvalResult, compiled, open_evaluator
from mindformers_codellama.train.loop import Parts, run_loop, save
from mindformers_codellama.train.plan import (
    build_network,
    build_step,
    build_update,
    open_train_batches,
    plan_length,
    plan_schedule,
    run_facts,
)
from mindformers_codellama.train.progress import Bar, LogLines, Show, Silent
from mindformers_codellama.train.rank_step import RankStep
from mindformers_codellama.train.record import Recorder
from mindformers_codellama.train.schedule import RunLength
from mindformers_codellama.train.start import open_folder, resume_point, several, start_or_resume
from mindformers_codellama.train.state import TrainState
from mindformers_codellama.train.strategies import save_strategy

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
    adapter: Path | None
    """The trained adapter, as PEFT's files."""
    plot: Path | None
    """PNG of the loss."""
    seconds: float
    """Wall time, compilation included."""
    tokens_per_second: float
    """Over the steps of this process and the rows of all ranks, compilation included, pads included."""
    network: LlamaNetwork
    """With the trained weights; this rank's part of them."""
    rank: int = 0
    """This process among the ranks."""

    @property
    def files(self) -> dict[str, Path | None]:
        """What was written, by the words a person reads."""
        return {
            "checkpoint": self.checkpoint,
            "weights alone": self.network_checkpoint,
            "adapter": self.adapter,
            "loss curve": self.plot,
        }


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
    enter_run(run)
    layout = run_layout(run)
    comm = join(layout)
    if comm.rank:
        logging.getLogger(__package__.partition(".")[0]).setLevel(logging.WARNING)
    parts, network, state = _begin(run, comm, run_model_layout(run, layout), force=force, bar=bar)
    _announce(parts, network, state)
    _compile(parts)
    first = state.step
    state = _run_and_close(parts, state)
    seconds = time.perf_counter() - started
    tokens = (state.step - first) * parts.facts.batch_size * parts.facts.micro_steps * run.model.config.seq_length
    folder = parts.folder
    adapter = folder.adapter_folder if folder and folder.adapter else None
    return TrainResult(
        step=state.step,
        updates=state.updates,
        loss=parts.last_loss,
        losses=tuple(parts.recorder.losses),
        evaluation=parts.last_eval,
        checkpoint=parts.last_saved,
        network_checkpoint=folder.network_file if folder and not adapter and folder.network_file.exists() else None,
        adapter=adapter,
        plot=parts.recorder.plot(),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        network=network,
        rank=comm.rank,
    )


def _begin(run: RunConfig, comm: Comm, model_layout: ModelLayout, *, force: bool, bar: bool) -> tuple[Parts, LlamaNetwork, TrainState]:
    """Everything the loop needs, this rank's network, and where it starts; files are looked at before memory is taken."""
    point = resume_point(run, comm, model_layout)
    folder = open_folder(run, point, force=force, comm=comm, model_layout=model_layout)
    if run.model.model_config.pet_config is None:  # every rank has a whole adapter: there is nothing a strategy could tell
        save_strategy(run, comm, model_layout)
    source = together(several(comm), lambda: open_train_batches(run, comm.data.index), doing="opening the data", slow=True)
    length = plan_length(run, source)
    schedule = plan_schedule(run, length)
    network = build_network(run, comm, model_layout)
    adapter = open_adapter(run, network, comm)
    update = build_update(run, network, comm, model_layout)
    facts = replace(run_facts(run, source), adapter=adapter.facts if adapter else "")
    if folder:
        folder.adapter = adapter
    state, run_id, from_path = start_or_resume(run, point, network, update, facts=facts, comm=comm, model_layout=model_layout)
    parts = Parts(
        run=run,
        step=build_step(run, network, update, comm, model_layout),
        update=update,
        source=source,
        length=length,
        schedule=schedule,
        facts=facts,
        run_id=run_id,
        recorder=open_recorder(run, state.step, rank=comm.rank),
        show=open_show(run, length, state.step, bar=bar, rank=comm.rank),
        folder=folder,
        evaluator=open_evaluator(run, network, comm) if run.do_eval else None,
        last_saved=from_path,
        comm=comm,
    )
    return parts, network, state


def _compile(parts: Parts) -> None:
    """Compile before the first step where ranks must begin together; one process compiles at its first step."""
    run, step = parts.run, parts.step
    if isinstance(step, RankStep) and run.context.mode == 0:
        rows, row_length = plan_batches(run).rows, parts.facts.row_length
        together(parts.comm, lambda: step.compile(rows, row_length), doing="compiling the step", slow=True)
    if parts.evaluator:
        compiled(run, parts.evaluator, parts.comm)


def open_recorder(run: RunConfig, step: int, *, rank: int = 0) -> Recorder:
    """The writers of `train_log`, on rank 0 only; the SummaryMonitor callback chooses another folder."""
    if rank:
        return Recorder(Path(run.output_dir), TrainLogSection(jsonl=False, tensorboard=False, plot=False))
    summary = next((item.summary_dir for item in run.callbacks if isinstance(item, SummaryMonitor) and item.summary_dir), "")
    folder = Path(summary) if summary else Path(run.output_dir) / "log"
    return Recorder(folder.expanduser(), run.train_log, first_step=step)


def open_show(run: RunConfig, length: RunLength, step: int, *, bar: bool, rank: int = 0) -> Show:
    """A bar, or MindFormers' lines as often as `MFLossMonitor` says (never without it); on rank 0 only."""
    if rank:
        return Silent()
    if bar:
        return Bar(total=length.total_steps, done=step)
    runner, monitor = run.runner_config, run.loss_monitor
    return LogLines(per_print_times=monitor.per_print_times if monitor else 0, sink_mode=runner.sink_mode, sink_size=runner.sink_size)


def _run_and_close(parts: Parts, state: TrainState) -> TrainState:
    """The loop; whatever happens, the log is closed.

    With `exception_save` the state after the last step is written, but not when training itself went wrong: those
    weights lead nowhere, and would push out a good checkpoint. Of several ranks all must be at the same step to save,
    and they are when they stop on request. One that hears the request after the last step is saved has nothing to save, and
    the others are gone.
    """
    if state.step >= parts.length.total_steps:
        problem = f"the run has {parts.length.total_steps} steps and {state.step} are done already."
        raise ConfigError("runner_config.epochs", problem, fix="raise epochs to train longer.")
    try:
        return run_loop(parts, state)
    except TrainingError:
        raise
    except BaseException as error:
        together_here = parts.comm.is_alone or isinstance(error, KeyboardInterrupt)
        wanted = parts.folder is not None and parts.folder.settings.exception_save and together_here
        if wanted and parts.state and parts.state.step > max(state.step, parts.saved_step):
            logger.warning("training stops early; saving the state after step %d", parts.state.step)
            save(parts, parts.state)
        if parts.state:
            logger.warning("stopped after step %d; go on with --resume. Last complete checkpoint: %s", parts.state.step, parts.last_saved)
        raise
    finally:
        parts.show.close()
        parts.recorder.close()


def _announce(parts: Parts, network: LlamaNetwork, state: TrainState) -> None:
    weights = sum(parameter.size for parameter in network.get_parameters())
    trained = sum(parameter.size for parameter in network.trainable_params())
    length, plan = parts.length, plan_batches(parts.run)
    logger.info(
        "%s: %.2fM weights%s in %s%s; steps %d to %d of %d rows; the first step compiles the graph",
        parts.run.trainer.model_name or "model",
        weights / 1e6,
        "" if trained == weights else f", an adapter's {trained / 1e6:.3f}M of them trained,",
        parts.run.model.config.param_init_dtype,
        "" if plan.ranks == 1 else f" on rank 0 of {plan.ranks} (layout {parts.comm.layout})",
        state.step + 1,
        length.total_steps,
        plan.step_rows,
    )
