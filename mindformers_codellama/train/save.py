"""Write checkpoints so that a kill at any moment leaves the last complete one.

Order of one save: the new file under a temporary name, synced; rename; `meta.json` (for MindFormers);
weights alone; only then are old files removed. Layout and names are MindFormers':
`checkpoint/rank_0/<prefix>_rank_0-<epoch>_<step in epoch>.ckpt`, `checkpoint_network/rank_0/<prefix>_rank_0-network.ckpt`.

With several ranks each writes what it holds into its own `rank_N`. A step counts once all of them have it, so a rank
removes old files only when every rank has finished the new one. Of an adapter all hold the same: rank 0 writes what one
process would.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import mindspore as ms
import numpy as np

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.dtypes import MINDSPORE, dtype_name
from mindformers_codellama.checkpoint.files import TEMPORARY_SUFFIX, atomic_file
from mindformers_codellama.checkpoint.safetensors_format import write_safetensors
from mindformers_codellama.checkpoint.shard_files import rank_folders
from mindformers_codellama.checkpoint.shard_info import SHARD_KEY, ShardInfo, shard_info, shard_text, text_tensor
from mindformers_codellama.checkpoint.tensors import ComputedTensor
from mindformers_codellama.config.sections import CheckpointMonitor
from mindformers_codellama.errors import CheckpointError, ConfigError, TrainingError
from mindformers_codellama.layout.cuts import MOMENTS, ModelLayout
from mindformers_codellama.parallel.agreement import Gathers, gather, together
from mindformers_codellama.train.adapter import FOLDER, TrainedAdapter
from mindformers_codellama.train.optimizer import AdamUpdate
from mindformers_codellama.train.state import STATE_KEY, SavedState, state_text

logger = logging.getLogger(__name__)

META_NAME = "meta.json"


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        root: `output_dir`, or `directory` of the callback.
        settings: the `CheckpointMonitor` callback.
        comm: this process among the ranks; None for one process. Then every rank must make the same calls.
        model_layout: where every tensor lies; needed with several ranks.
        copies: every rank holds the same, and rank 0 alone writes it, into `rank_0`.
    """

    def __init__(
        self,
        root: Path,
        settings: CheckpointMonitor,
        *,
        comm: Gathers | None = None,
        model_layout: ModelLayout | None = None,
        copies: bool = False,
    ) -> None:
        self.root = root
        self.settings = settings
        several = model_layout is not None and model_layout.layout.ranks > 1
        self.comm = comm if several else None
        self.model_layout = None if self.comm is None or copies else model_layout
        self.ranks = 1 if self.model_layout is None else self.model_layout.layout.ranks
        """Ranks that write."""
        self.rank = 0 if self.comm is None or copies else self.comm.rank
        """Whose folder it is."""
        self.writes = not copies or self.comm is None or self.comm.rank == 0
        self.adapter: TrainedAdapter | None = None
        """Written in place of the weights alone, when an adapter is trained."""
        self._replaced: list[Path] = []
        self._saved: list[Path] = []
        self._attempt = ""
        self._ranks_before = 0

    @property
    def prefix(self) -> str:
        """Start of every file name."""
        return f"{self.settings.prefix}_rank_{self.rank}"

    @property
    def folder(self) -> Path:
        """Where resumable checkpoints go."""
        return self.root / "checkpoint" / f"rank_{self.rank}"

    @property
    def network_file(self) -> Path:
        """Where the weights alone go."""
        return self.root / "checkpoint_network" / f"rank_{self.rank}" / f"{self.prefix}-network.{self.settings.checkpoint_format}"

    @property
    def adapter_folder(self) -> Path:
        """Where the adapter goes, as PEFT's files."""
        return self.root / FOLDER

    def existing(self) -> list[Path]:
        """Checkpoints with this prefix, oldest step first."""
        return [path for _, path in sorted(self._with_place())]

    def refuse_foreign(self, *, force: bool) -> None:
        """Refuse to mix a new run with the checkpoints of another; with `force` they go once the new run has its first.

        Raises:
            ConfigError: there are checkpoints and `force` is False.
        """
        found = self.existing()
        if found and not force:
            problem = f"already holds {len(found)} checkpoints of another run in {self.folder}."
            fix = "go on with --resume (or resume_training: True), choose another output_dir, or give --force to replace them."
            raise ConfigError("output_dir", problem, fix=fix)
        self._replaced = found
        if found:  # the other run may have had more ranks
            self._ranks_before = 1 + max(rank_folders(self.root), default=0)

    def replace(self, paths: Iterable[Path], *, incomplete: Iterable[Path] = (), ranks_before: int = 0) -> None:
        """Remove these once the run has saved its first checkpoint.

        Args:
            paths: files of this rank's folder.
            incomplete: files of saves that are not complete on all ranks; those of this rank's folder go as well.
            ranks_before: ranks of the checkpoint the run goes on from. Where there were more, the folders that no rank has
                any more are pruned with the own one.
        """
        mine = {path.resolve() for path in incomplete}
        self._replaced = [*paths, *(path for path in self.existing() if path.resolve() in mine)]
        self._ranks_before = ranks_before

    def save(self, update: AdamUpdate, saved: SavedState, place: tuple[int, int]) -> Path:
        """Write one resumable checkpoint and remove the oldest ones beyond `keep_checkpoint_max`.

        Args:
            update: weights and moments, fetched from the device tensor by tensor.
            saved: the rest.
            place: (epoch, step in it), both from 1, for the name.

        Raises:
            TrainingError: the disk is full or not writable; earlier checkpoints are untouched.
        """
        path = self.folder / f"{self.prefix}-{place[0]}_{place[1]}.{self.settings.checkpoint_format}"
        before = self.existing()
        name = self._save_name(saved.state.step)

        def checkpoint() -> None:
            self._remove_temporary()
            tensors = _tensors(update)
            write_tensors(path, {**tensors, **state_items(saved, place[0])}, text=state_text(saved), shard=self._shard(name, tensors))
            with atomic_file(self.folder / META_NAME, force=True) as file:
                file.write(json.dumps({"last_epoch": place[0], "last_step": place[1], "last_ckpt_file": path.name}).encode())

        def network() -> None:
            weights = {p.name: p for p in update.parameters}
            write_tensors(self.network_file, weights, shard=self._shard(name, weights))

        self._write_together(checkpoint, before)
        if self.adapter is not None:
            adapter = self.adapter
            self._write_together(lambda: adapter.write(self.adapter_folder), [*before, path])
        elif self.settings.save_network_params:
            self._write_together(network, [*before, path])
        if self.writes:
            self._prune(path, before)
        return path

    def _write_together(self, write: Callable[[], None], before: list[Path]) -> None:
        """Write on every rank that does; when one cannot, all end, and that one says why."""

        def told() -> None:
            if not self.writes:
                return
            try:
                write()
            except OSError as error:
                raise TrainingError(self.folder, f"cannot be written: {error.strerror or error}.") from error
            except CheckpointError as error:
                last = before[-1] if before else "none"
                fix = f"{error.fix} The last complete checkpoint is {last}; resume from it.".strip()
                raise TrainingError(error.where, error.problem, fix=fix) from error

        together(self.comm, told, doing="saving a checkpoint", slow=True)

    def _save_name(self, step: int) -> str:
        """A name that the files of this save share; empty for one process."""
        if self.comm is None or self.model_layout is None:
            return ""
        mine = (self._attempt or secrets.token_hex(8), step)
        found = gather(self.comm, mine, doing="saving a checkpoint")
        assert all(other == step for _, other in found), found
        self._attempt = found[0][0]
        return f"{self._attempt}-{step}"

    def _shard(self, name: str, tensors: Mapping[str, ms.Parameter]) -> ShardInfo | None:
        """What this rank's file says about itself."""
        if self.model_layout is None:
            return None
        moments = any(tensor.startswith(MOMENTS) for tensor in tensors)
        info = shard_info(self.model_layout, self.rank, moments=moments, save=name)
        assert info.fits({tensor: tuple(value.shape) for tensor, value in tensors.items()}), (self.rank, str(info.layout))
        return info

    def _prune(self, newest: Path, before: list[Path]) -> None:
        """Keep the newest `keep_checkpoint_max`. What this process saved is newer than all it found, whatever the names say."""
        self._saved = [path for path in self._saved if path != newest and path in before]
        others = [path for path in before if path not in (newest, *self._replaced, *self._saved)] + self._saved
        self._saved.append(newest)
        surplus = others[: max(0, len(others) - (self.settings.keep_checkpoint_max - 1))]
        for path in {*self._replaced, *surplus} - {newest}:
            path.unlink(missing_ok=True)
        self._replaced = []
        self._prune_left_folders()

    def _prune_left_folders(self) -> None:
        """Of folders of ranks there are no longer, keep the steps that are kept in the folder of this rank."""
        kept = {place for place, _ in self._with_place()}
        for rank in range(self.rank + self.ranks, self._ranks_before, self.ranks):
            for place, path in _named(self.folder.with_name(f"rank_{rank}"), f"{self.settings.prefix}_rank_{rank}"):
                if place not in kept:
                    path.unlink(missing_ok=True)

    def _remove_temporary(self) -> None:
        """Remove what killed saves of this prefix left behind."""
        for path in self.folder.glob(f".{self.prefix}-*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)

    def _with_place(self) -> Iterator[tuple[tuple[int, int], Path]]:
        return _named(self.folder, self.prefix)


def _named(folder: Path, prefix: str) -> Iterator[tuple[tuple[int, int], Path]]:
    """(epoch, step) of the name and path of the checkpoints with a prefix."""
    pattern = re.compile(re.escape(prefix) + r"-(\d+)_(\d+)\.(?:ckpt|safetensors)")
    for path in folder.glob(f"{prefix}-*"):
        found = pattern.fullmatch(path.name)
        if found:
            yield (int(found[1]), int(found[2])), path


def state_items(saved: SavedState, epoch: int) -> dict[str, np.ndarray]:
    """MindFormers' entries for optimizer step, place and loss scale."""
    state = saved.state
    items = {
        "global_step": np.array([state.updates], np.int32),
        "scale_sense": np.float32(state.scale.value),
        "epoch_num": np.int64(epoch),
        "step_num": np.int64(state.step),
        "loss_scale": np.float32(state.scale.value),
    }
    if state.scale.dynamic:
        items["current_iterator_step"] = np.int32(state.scale.current_step)
        items["last_overflow_iterator_step"] = np.int32(state.scale.last_change)
    return {name: np.asarray(value) for name, value in items.items()}


def write_tensors(path: Path, tensors: Mapping[str, ms.Parameter | np.ndarray], *, text: str = "", shard: ShardInfo | None = None) -> None:
    """Write a `.ckpt` (with its checksum) or safetensors file, one tensor on the host at a time; replaces an older one.

    Args:
        path: the file.
        tensors: name to values.
        text: of `state_text`; empty for weights alone.
        shard: description of one rank's file. Then texts of a `.ckpt` are written so that MindSpore's tools pass over them.
    """
    texts = {STATE_KEY: text} if text else {}
    if shard is not None:
        texts[SHARD_KEY] = shard_text(shard)
    if path.suffix == ".ckpt":
        items = ((name, _numpy(value)) for name, value in tensors.items())
        last = ((key, value if shard is None else text_tensor(value)) for key, value in texts.items())
        write_ckpt(path, chain(items, last), force=True, crc=True)
        return
    write_safetensors(path, {name: _lazy(value) for name, value in tensors.items()}, metadata={"format": "ms"} | texts, force=True)


def _tensors(update: AdamUpdate) -> dict[str, ms.Parameter]:
    return {parameter.name: parameter for group in (update.parameters, update.adam_m, update.adam_v) for parameter in group}


def _numpy(value: ms.Parameter | np.ndarray) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.asnumpy()


def _lazy(value: ms.Parameter | np.ndarray) -> ComputedTensor:
    dtype = dtype_name(value.dtype) if isinstance(value, np.ndarray) else MINDSPORE[str(value.dtype)]
    return ComputedTensor(tuple(value.shape), dtype, lambda: _numpy(value))
