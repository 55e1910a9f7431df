"""Write checkpoints so that a kill at any moment leaves the last complete one.

Order of one save: the new file under a temporary name, synced; rename; `meta.json` (for MindFormers);
weights alone; only then are old files removed. Layout and names are MindFormers':
`checkpoint/rank_0/<prefix>_rank_0-<epoch>_<step in epoch>.ckpt`, `checkpoint_network/rank_0/<prefix>_rank_0-network.ckpt`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import numpy as np

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.dtypes import MINDSPORE, dtype_name
from mindformers_codellama.checkpoint.files import TEMPORARY_SUFFIX, atomic_file
from mindformers_codellama.checkpoint.safetensors_format import write_safetensors
from mindformers_codellama.checkpoint.tensors import ComputedTensor
from mindformers_codellama.config.sections import CheckpointMonitor
from mindformers_codellama.errors import CheckpointError, ConfigError, TrainingError
from mindformers_codellama.train.optimizer import AdamUpdate
from mindformers_codellama.train.state import STATE_KEY, SavedState, state_text

logger = logging.getLogger(__name__)

META_NAME = "meta.json"


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        root: `output_dir`, or `directory` of the callback.
        settings: the `CheckpointMonitor` callback.
        rank: this process among the ranks.
    """

    def __init__(self, root: Path, settings: CheckpointMonitor, *, rank: int = 0) -> None:
        self.root = root
        self.settings = settings
        self.rank = rank
        self._replaced: list[Path] = []
        self._saved: list[Path] = []

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

    def replace(self, paths: list[Path]) -> None:
        """Remove these once the run has saved its first checkpoint."""
        self._replaced = list(paths)

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
        self._remove_temporary()
        try:
            write_tensors(path, {**_tensors(update), **state_items(saved, place[0])}, text=state_text(saved))
            with atomic_file(self.folder / META_NAME, force=True) as file:
                file.write(json.dumps({"last_epoch": place[0], "last_step": place[1], "last_ckpt_file": path.name}).encode())
            if self.settings.save_network_params:
                write_tensors(self.network_file, {p.name: p for p in update.parameters})
        except CheckpointError as error:
            last = before[-1] if before else "none"
            fix = f"{error.fix} The last complete checkpoint is {last}; resume from it.".strip()
            raise TrainingError(error.where, error.problem, fix=fix) from error
        self._prune(path, before)
        return path

    def _prune(self, newest: Path, before: list[Path]) -> None:
        """Keep the newest `keep_checkpoint_max`. What this process saved is newer than all it found, whatever the names say."""
        self._saved = [path for path in self._saved if path != newest and path in before]
        others = [path for path in before if path not in (newest, *self._replaced, *self._saved)] + self._saved
        self._saved.append(newest)
        surplus = others[: max(0, len(others) - (self.settings.keep_checkpoint_max - 1))]
        for path in {*self._replaced, *surplus} - {newest}:
            path.unlink(missing_ok=True)
        self._replaced = []

    def _remove_temporary(self) -> None:
        """Remove what killed saves of this prefix left behind."""
        for path in self.folder.glob(f".{self.prefix}-*{TEMPORARY_SUFFIX}"):
            path.unlink(missing_ok=True)

    def _with_place(self) -> Iterator[tuple[tuple[int, int], Path]]:
        pattern = re.compile(re.escape(self.prefix) + r"-(\d+)_(\d+)\.(?:ckpt|safetensors)")
        for path in self.folder.glob(f"{self.prefix}-*"):
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


def write_tensors(path: Path, tensors: dict[str, ms.Parameter | np.ndarray], *, text: str = "") -> None:
    """Write a `.ckpt` (with its checksum) or safetensors file, one tensor on the host at a time; replaces an older one."""
    if path.suffix == ".ckpt":
        items = ((name, _numpy(value)) for name, value in tensors.items())
        last = ((STATE_KEY, text),) if text else ()
        write_ckpt(path, _chain(items, last), force=True, crc=True)
        return
    metadata = {"format": "ms"} | ({STATE_KEY: text} if text else {})
    write_safetensors(path, {name: _lazy(value) for name, value in tensors.items()}, metadata=metadata, force=True)


def _chain(items: Iterator[tuple[str, np.ndarray]], last: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, np.ndarray | str]]:
    yield from items
    yield from last


def _tensors(update: AdamUpdate) -> dict[str, ms.Parameter]:
    return {parameter.name: parameter for group in (update.parameters, update.adam_m, update.adam_v) for parameter in group}


def _numpy(value: ms.Parameter | np.ndarray) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.asnumpy()


def _lazy(value: ms.Parameter | np.ndarray) -> ComputedTensor:
    dtype = dtype_name(value.dtype) if isinstance(value, np.ndarray) else MINDSPORE[str(value.dtype)]
    return ComputedTensor(tuple(value.shape), dtype, lambda: _numpy(value))
