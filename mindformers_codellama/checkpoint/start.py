"""The weights a run starts from: every rank reads its own slices, and all refuse together.

With `auto_trans_ckpt: True` each rank cuts its part straight from the source (a Hugging Face directory, a whole checkpoint,
shards of any layout) and also writes it to `output_dir/transformed_checkpoint/<name>/rank_N/checkpoint_N.ckpt`, from
where later runs of this layout start. Nobody cuts for others, and nothing that is there is removed.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from mindspore import nn

from mindformers_codellama.checkpoint.boxes_io import part_of
from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.load import check_tensors, compare_configs, load_from, rank_box, weight_shapes
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.report import LoadReport
from mindformers_codellama.checkpoint.shard_info import SHARD_KEY, shard_info, shard_text, text_tensor
from mindformers_codellama.checkpoint.source import Source, open_source
from mindformers_codellama.checkpoint.tensors import LazyTensor
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.parallel.agreement import Gathers, gather, host_name, together

logger = logging.getLogger(__name__)

OPENING = "opening the checkpoint"
READING = "reading the checkpoint"
CUTTING = "cutting the checkpoint for this layout"
"""What ranks are at, for messages."""


def load_start(network: nn.Cell, run: RunConfig, *, comm: Gathers | None = None, model_layout: ModelLayout | None = None) -> LoadReport:
    """Fill a network from `load_checkpoint` (or `checkpoint_name_or_path`) as `auto_trans_ckpt` and `src_strategy_path_or_dir` say.

    Args:
        network: whole, or one rank's part.
        run: names the checkpoint.
        comm: this process among the ranks, which must all call this; None for one process.
        model_layout: where every tensor lies; needed with several ranks.

    Raises:
        CheckpointError: as `load_weights`; shards of another layout without `auto_trans_ckpt`.
    """
    output_dir = Path(run.output_dir).expanduser() if run.auto_trans_ckpt else None
    strategy, auto = run.src_strategy_path_or_dir, run.auto_trans_ckpt
    return load_weights(
        network, run.start_weights, comm=comm, model_layout=model_layout, strategy=strategy, auto_trans=auto, output_dir=output_dir
    )


def check_start(run: RunConfig, *, model_layout: ModelLayout | None = None) -> None:
    """Raise what `load_start` would raise on rank 0, from the heads of the files alone.

    Args:
        run: names the checkpoint.
        model_layout: where every tensor lies; None for a whole network.

    Raises:
        CheckpointError: as `load_start`.
    """
    path, shapes = Path(run.start_weights).expanduser(), parameter_shapes(run.model.config)
    needed = shapes if model_layout is None else {name: rank_box(model_layout, name, 0).shape for name in model_layout.names(0)}
    source = _open_seen(path, needed, (model_layout, 0), run.src_strategy_path_or_dir, auto_trans=run.auto_trans_ckpt)
    check_tensors(source, needed, model_layout=model_layout)
    compare_configs(source.reader, run.model.config)


def load_weights(  # noqa: PLR0913 - one value per fact, all named
    network: nn.Cell,
    path: str | Path,
    *,
    comm: Gathers | None = None,
    model_layout: ModelLayout | None = None,
    strategy: str = "",
    auto_trans: bool = True,
    output_dir: Path | None = None,
) -> LoadReport:
    """Fill a network on every rank from one save, or refuse on all.

    Args:
        network: whole, or one rank's part.
        path: anything `open_source` takes.
        comm: this process among the ranks, which must all call this; None for one process.
        model_layout: where every tensor lies; needed with several ranks.
        strategy: strategy file or folder of shards that do not describe themselves.
        auto_trans: take shards of another layout.
        output_dir: where parts are left behind, below `transformed_checkpoint`; None leaves nothing.

    Raises:
        CheckpointError: as `load_into`; a rank that does not see the checkpoint; no save that all ranks have; a full disk.
    """
    if comm is None or model_layout is None or model_layout.layout.ranks == 1:
        comm, model_layout = None, None
    rank, path = 0 if comm is None else comm.rank, Path(path).expanduser()
    needed = weight_shapes(network)

    def open_it(alone: bool) -> Source:
        return _open_seen(path, needed, (model_layout, rank), strategy, auto_trans=auto_trans, alone=alone)

    source = _of_one_save(comm, path, open_it)
    together(comm, lambda: check_tensors(source, needed, model_layout=model_layout), doing=OPENING, slow=True)
    if comm is not None and model_layout is not None and output_dir is not None and not all(gather(comm, source.own, doing=OPENING)):
        source = _cut(comm, source, list(needed), model_layout, transformed_folder(path, output_dir, model_layout))
    return together(comm, lambda: load_from(network, source, model_layout=model_layout, rank=rank), doing=READING, slow=True)


def transformed_folder(path: Path, output_dir: Path, model_layout: ModelLayout) -> Path:
    """Where a checkpoint cut for a layout goes; never the place it is read from."""
    path = path.absolute()
    folder = output_dir.absolute() / "transformed_checkpoint" / (path.name if path.is_dir() else path.stem)
    if path == folder or folder in path.parents:
        return folder.with_name(f"{folder.name}_{model_layout.layout}")
    return folder


def _open_seen(
    path: Path,
    needed: dict[str, tuple[int, ...]],
    place: tuple[ModelLayout | None, int],
    strategy: str,
    *,
    auto_trans: bool,
    alone: bool = True,
) -> Source:
    """What a rank starts from; refused when it is cut for another layout, and nobody allowed to cut it anew."""
    model_layout, rank = place
    if model_layout is not None and not path.exists():
        fix = "give every machine the checkpoint at this path: a disk they share, or a copy (of its own rank_N folders, if it is cut)."
        raise CheckpointError(path, f"does not exist for rank {rank} on {host_name()}.", fix=fix)
    source = open_source(path, needed, model_layout=model_layout, rank=rank, strategy=strategy, alone=alone)
    if source.sharded and not auto_trans:
        raise _other_layout(path, model_layout)
    return source


def _other_layout(path: Path, model_layout: ModelLayout | None) -> CheckpointError:
    layout = f"layout {model_layout.layout}" if model_layout else "one process"
    fix = "set auto_trans_ckpt: True to cut it anew at start, or do it once with `codellama reshard` or `codellama merge`."
    return CheckpointError(path, f"is cut over ranks, and not as this run needs it ({layout}).", fix=fix)


def _of_one_save(comm: Gathers | None, path: Path, open_it: Callable[[bool], Source]) -> Source:
    """What this rank starts from; when ranks find files of different saves, the newest that is complete.

    Args:
        comm: the ranks.
        path: for messages.
        open_it: opens the source, with whether this rank may take the newest file of its own folder.
    """
    source = together(comm, lambda: open_it(True), doing=OPENING, slow=True)
    marks = gather(comm, (source.own, source.save), doing=OPENING)
    if len(set(marks)) == 1:
        return source

    def again() -> Source:
        try:
            return open_it(False)
        except CheckpointError as error:
            told = ", ".join(f"rank {rank} {save or 'a whole one or one without a name'}" for rank, (_, save) in enumerate(marks))
            fix = "copy the files of one step to all machines, and take others out of the rank_N folders."
            problem = f"ranks find shards of different saves ({told}), and there is none that is complete: {error.problem}"
            raise CheckpointError(path, problem, fix=fix) from error

    return together(comm, again, doing=OPENING, slow=True)


def _cut(comm: Gathers, source: Source, names: list[str], model_layout: ModelLayout, folder: Path) -> Source:
    """Write this rank's part and give it back as the source to load from."""
    started = time.perf_counter()
    rank = comm.rank
    save = gather(comm, secrets.token_hex(8), doing=CUTTING)[0]
    file = folder / f"rank_{rank}" / f"checkpoint_{rank}.ckpt"

    def write() -> Source:
        description = text_tensor(shard_text(shard_info(model_layout, rank, moments=False, save=save)))
        write_ckpt(file, chain(_parts(source, names, model_layout, rank), ((SHARD_KEY, description),)), force=True, crc=True)
        return Source(open_checkpoint(file), own=True, save=save)

    cut = together(comm, write, doing=CUTTING, slow=True)
    if rank == 0:
        seconds = time.perf_counter() - started
        logger.info("cut %s for layout %s into %s in %.1f s", source.reader.path, model_layout.layout, folder, seconds)
    return cut


def _parts(source: Source, names: list[str], model_layout: ModelLayout, rank: int) -> Iterator[tuple[str, LazyTensor]]:
    for name in names:
        tensor = source.reader.tensor(name)
        yield name, tensor if source.own else part_of(tensor, rank_box(model_layout, name, rank))
