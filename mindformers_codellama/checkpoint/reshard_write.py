"""Write the file of one rank, streamed from wherever its parts lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mindformers_codellama.checkpoint.ckpt_format import Value, write_ckpt
from mindformers_codellama.checkpoint.files import FileRecord
from mindformers_codellama.checkpoint.open import CheckpointReader, open_checkpoint
from mindformers_codellama.checkpoint.reshard_target import Target
from mindformers_codellama.checkpoint.safetensors_format import write_safetensors
from mindformers_codellama.checkpoint.shard_files import rank_folders
from mindformers_codellama.checkpoint.shard_info import SHARD_KEY, read_shard_text, shard_text, text_tensor
from mindformers_codellama.checkpoint.sharded import open_sharded
from mindformers_codellama.checkpoint.tensors import LazyTensor
from mindformers_codellama.checkpoint.weight_map import is_training_state
from mindformers_codellama.errors import CheckpointError

FORMS = ("ckpt", "safetensors")
_TEXT = "codellama_"
"""Start of the names of our texts."""


@dataclass(frozen=True, kw_only=True)
class ShardSource:
    """What is read, by names that every worker can open for itself."""

    path: Path
    strategy: Path | None = None
    """Of shards that do not describe themselves."""
    prefix: str = ""
    """Start of the file names in `rank_N` folders that hold several kinds."""
    verify: bool = False
    """Compare all replicas."""
    weights_only: bool = False
    """Leave out optimizer state and position."""

    def open(self) -> CheckpointReader:
        """The checkpoint as whole tensors.

        Raises:
            CheckpointError: as `open_sharded` or `open_checkpoint`; or one rank's file alone.
        """
        folders = rank_folders(self.path) if self.path.is_dir() else {}
        if folders and (self.strategy or self.prefix or self.verify or len(folders) > 1):
            return open_sharded(self.path, strategy=self.strategy, prefix=self.prefix, verify=self.verify)
        reader = open_checkpoint(self.path)
        text = texts(reader).get(SHARD_KEY)
        info = read_shard_text(text, where=self.path) if text else None
        if info is not None and info.layout.ranks > 1:
            problem = f"is the part of rank {info.rank} of {info.layout.ranks}."
            raise CheckpointError(self.path, problem, fix="give the folder that holds the rank_N folders.")
        return reader

    def tensors(self, reader: CheckpointReader) -> dict[str, LazyTensor]:
        """What is taken over, in order."""
        return {name: reader.tensor(name) for name in reader.names() if not (self.weights_only and is_training_state(name))}


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One resharding: from where, into what, under which names."""

    source: ShardSource
    target: Target
    destination: Path
    """A folder, or one file when the target is whole."""
    prefix: str = "checkpoint_"
    form: str = "ckpt"
    save: str = ""
    """Names the files that belong together."""

    @property
    def is_file(self) -> bool:
        """Whether the destination is one file."""
        return self.destination.suffix in (".ckpt", ".safetensors")

    def path(self, rank: int) -> Path:
        """The file of a rank."""
        if self.is_file:
            return self.destination
        return self.destination / f"rank_{rank}" / f"{self.prefix}{rank}.{self.form}"


def write_rank(job: ShardJob, reader: CheckpointReader, rank: int, on_bytes: Callable[[int], object]) -> FileRecord:
    """Write the file of `rank`, replacing an older one; it appears whole or not at all.

    Raises:
        CheckpointError: a source that cannot be read, a full disk.
    """
    tensors = job.source.tensors(reader)
    parts = job.target.parts(tensors, rank)
    said = {} if job.source.weights_only else {key: text for key, text in texts(reader).items() if key != SHARD_KEY}
    if not job.target.is_whole:
        said[SHARD_KEY] = shard_text(job.target.info(tensors, rank, job.save))
    path = job.path(rank)
    if path.suffix == ".safetensors":
        record = write_safetensors(path, parts, metadata={"format": "ms", **said}, force=True, on_bytes=on_bytes)
    else:
        items: dict[str, Value] = {**parts, **_entries(said, whole=job.target.is_whole)}
        crc = bool(reader.metadata.get("crc"))
        record = write_ckpt(path, items.items(), force=True, crc=crc, hashed=True, on_bytes=on_bytes)
    name = path.name if job.is_file else str(path.relative_to(job.destination))
    return FileRecord(name, record.size, record.sha256)


def texts(reader: CheckpointReader) -> dict[str, str]:
    """Our texts and those of a `.ckpt`."""
    return {**{key: str(value) for key, value in reader.metadata.items() if key.startswith(_TEXT)}, **reader.strings}


def _entries(said: Mapping[str, str], *, whole: bool) -> dict[str, Value]:
    """Texts as entries of a `.ckpt`; in shards as uint8, because MindSpore's tools stumble over text."""
    return {key: text if whole or not key.startswith(_TEXT) else text_tensor(text) for key, text in said.items()}
