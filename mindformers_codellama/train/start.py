"""Where a run starts: the checkpoint it goes on from, the folder it writes to, its first weights."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from mindformers_codellama.checkpoint.start import load_start
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import ConfigError, EnvironmentFault
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.parallel.agreement import gather, together
from mindformers_codellama.parallel.comm import SINGLE, Comm
from mindformers_codellama.train.optimizer import AdamUpdate
from mindformers_codellama.train.plan import plan_scale
from mindformers_codellama.train.resume import ResumePoint, find_resume_point, other_branch, restore
from mindformers_codellama.train.save import CheckpointFolder
from mindformers_codellama.train.state import RunFacts, TrainState

logger = logging.getLogger(__name__)


def several(comm: Comm) -> Comm | None:
    """The ranks to agree with; None for one process."""
    return None if comm.is_alone else comm


def resume_point(run: RunConfig, comm: Comm = SINGLE, model_layout: ModelLayout | None = None) -> ResumePoint | None:
    """The checkpoint to go on from; None for a run that starts anew. Errors as `find_resume_point`."""
    if not run.resume_training:
        return None
    monitor = run.checkpoint_monitor
    return find_resume_point(
        run.load_checkpoint,
        prefix=monitor.prefix if monitor else "",
        comm=several(comm),
        model_layout=model_layout,
        auto_trans=run.auto_trans_ckpt,
        strategy=run.src_strategy_path_or_dir,
    )


def open_folder(
    run: RunConfig, point: ResumePoint | None, *, force: bool, comm: Comm = SINGLE, model_layout: ModelLayout | None = None
) -> CheckpointFolder | None:
    """Where checkpoints go, after checking on every rank that they can; None when no callback saves.

    Raises:
        ConfigError: the folder holds checkpoints of another run, or later ones than the resumed one.
        EnvironmentFault: `output_dir` cannot be written.
    """
    doing = "opening output_dir"
    return together(several(comm), lambda: _open_own_folder(run, point, force=force, comm=comm, model_layout=model_layout), doing=doing)


def _open_own_folder(
    run: RunConfig, point: ResumePoint | None, *, force: bool, comm: Comm, model_layout: ModelLayout | None
) -> CheckpointFolder | None:
    """Of this rank."""
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
    copies = run.model.model_config.pet_config is not None
    folder = CheckpointFolder(place, monitor, comm=several(comm), model_layout=model_layout, copies=copies)
    if point is None:
        folder.refuse_foreign(force=force)
        return folder
    others = other_branch(point, folder.existing())
    if others and not force:
        problem = f"{folder.folder} holds {len(others)} checkpoints that are later than {point.path}, or of another run: {others[-1].name}."
        fix = "resume the newest (--resume), choose another output_dir, or give --force to replace them by what is trained now."
        raise ConfigError("output_dir", problem, fix=fix)
    folder.replace(others, incomplete=point.passed_over if point.files else (), ranks_before=len(point.files))
    return folder


def start_or_resume(  # noqa: PLR0913 - one value per fact, all named
    run: RunConfig,
    point: ResumePoint | None,
    network: LlamaNetwork,
    update: AdamUpdate,
    *,
    facts: RunFacts,
    comm: Comm,
    model_layout: ModelLayout,
) -> tuple[TrainState, str, Path | None]:
    """Fill the weights; the state to start from, the run's id, and the checkpoint it was resumed from.

    The weights below an adapter are there already (`adapter.open_adapter`).

    Raises:
        CheckpointError: a checkpoint that cannot be read, is of another model, or cannot be resumed.
        TrainingError: a resumed run with other data.
    """
    ranks = several(comm)
    own_layout = None if ranks is None or network.adapts else model_layout
    run_id = gather(ranks, secrets.token_hex(8), doing="starting")[0]
    if point is None:
        if run.start_weights and not network.adapts:
            load_start(network, run, comm=ranks, model_layout=own_layout)
        return TrainState(scale=plan_scale(run)), run_id, None
    state = together(
        ranks,
        lambda: restore(point, network, update, facts=facts, scale=plan_scale(run), model_layout=own_layout, rank=comm.rank),
        doing="resuming",
        slow=True,
    )
    logger.info("resumed from %s: %d steps and %d updates are done", point.path, state.step, state.updates)
    return state, point.saved.run_id or run_id, point.path
