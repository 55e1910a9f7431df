"""Any checkpoint into the shards of any layout, or into one whole; streamed, in parallel, and resumed after a kill.

Every destination file is written under a temporary name and renamed; the manifest beside them grows with each one, so
that a second run with the same source and target skips what is there with the recorded size and hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mindformers_codellama.checkpoint.directories import Companions, copy_tokenizer
from mindformers_codellama.checkpoint.files import (
    TEMPORARY_SUFFIX,
    FileRecord,
    refuse_existing,
    refuse_existing_directory,
    require_space,
    write_problem,
)
from mindformers_codellama.checkpoint.manifest import manifest_path, write_manifest
from mindformers_codellama.checkpoint.open import CheckpointReader
from mindformers_codellama.checkpoint.report import WriteReport
from mindformers_codellama.checkpoint.reshard_workers import write_all
from mindformers_codellama.checkpoint.reshard_write import ShardJob
from mindformers_codellama.checkpoint.tensors import CHUNK_BYTES
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.layout.strategy_files import write_strategy

_SMALL_BYTES = 1 << 30
"""Below this, one process writes."""


@dataclass(frozen=True, kw_only=True)
class ReshardReport(WriteReport):
    """What a resharding did; `bytes_written` leaves skipped files out."""

    source_layout: str
    """Empty for one whole checkpoint."""
    target_layout: str
    ranks: int
    largest_file: int
    """Tensor bytes of the largest file."""
    files: tuple[FileRecord, ...]
    skipped: int
    """Files that an earlier run had finished."""
    notes: tuple[str, ...]


def reshard(
    job: ShardJob,
    reader: CheckpointReader,
    *,
    workers: int | None = 1,
    force: bool = False,
    dry_run: bool = False,
    progress: bool | None = None,
    strategy: bool = True,
) -> ReshardReport:
    """Write the shards of a job.

    Args:
        job: source, target and names.
        reader: the opened source.
        workers: processes that write; None takes as many as there are cores, for small checkpoints one. Each needs memory
            for some blocks of 8 MB; a source that has to be computed, such as Meta's, needs twice its largest tensor.
        force: replace what another run wrote.
        dry_run: check everything, write nothing.
        progress: show a bar on stderr; None when it is a terminal.
        strategy: write `strategy/ckpt_strategy_rank_N.ckpt` beside shards of a layout of ours.

    Raises:
        CheckpointError: a source of another model, an output that exists, too little disk, a file that cannot be read.
    """
    started = time.monotonic()
    job.target.check(reader)
    _refuse_source(job, reader)
    plan = _plan(job, reader)
    job = replace(job, save=plan[:16])
    tensors = job.source.tensors(reader)
    sizes = list(job.target.sizes(tensors))
    done = _finished(job, plan, force=force)
    left = [rank for rank in range(len(sizes)) if rank not in done]
    require_space(job.destination, sum(sizes[rank] for rank in left))
    skipped = len(done)
    if not dry_run:
        _prepare(job, reader, left)
        write = _ManifestWriter(job, reader, plan, len(tensors), done)
        disable = None if progress is None else not progress  # None: tqdm shows it on a terminal only
        with tqdm(total=sum(sizes[rank] for rank in left), unit="B", unit_scale=True, desc=job.destination.name, disable=disable) as bar:
            write_all(job, reader, left, workers or _default_workers(sum(sizes)), bar.update, write.add)
        if strategy and job.target.model_layout is not None:
            for rank in range(job.target.layout.ranks):
                write_strategy(job.destination / "strategy", job.target.model_layout, rank)
        write.finish()
    return ReshardReport(
        source=str(reader.path),
        source_format=str(reader.metadata["format"]),
        source_layout=str(reader.metadata.get("layout", "")),
        target=str(job.destination),
        target_layout=str(job.target.layout),
        ranks=len(sizes),
        tensors=len(tensors),
        bytes_written=sum(sizes[rank] for rank in left),
        largest_file=max(sizes),
        files=tuple(done[rank] for rank in sorted(done)),
        skipped=skipped,
        notes=job.target.notes,
        dry_run=dry_run,
        seconds=time.monotonic() - started,
    )


class _ManifestWriter:
    """Keeps the manifest in step with the files: one that is named there is whole."""

    def __init__(self, job: ShardJob, reader: CheckpointReader, plan: str, tensors: int, done: dict[int, FileRecord]) -> None:
        self._job, self._reader, self._plan, self._tensors = job, reader, plan, tensors
        self._done = done
        if not job.is_file:
            self._write(complete=False)

    def add(self, rank: int, record: FileRecord) -> None:
        """Note a finished file."""
        self._done[rank] = record
        if not self._job.is_file:
            self._write(complete=False)

    def finish(self) -> None:
        """Note that all are there."""
        self._write(complete=True)

    def _write(self, *, complete: bool) -> None:
        job, reader = self._job, self._reader
        layout = job.target.model_layout
        sharding: dict[str, Any] = {
            "layout": str(job.target.layout),
            "ranks": job.target.layout.ranks,
            "complete": complete,
            "plan": self._plan,
            "order": list(job.source.tensors(reader)),
        }
        known = layout.config if layout is not None and not job.target.notes else reader.config
        write_manifest(
            manifest_path(job.destination),
            [self._done[rank] for rank in sorted(self._done)],
            dtypes=sorted({reader.dtype(name) for name in job.source.tensors(reader)}),
            tensors=self._tensors,
            source={"name": reader.path.name, "format": reader.metadata["format"], "layout": reader.metadata.get("layout", "")},
            model=known,
            sharding=sharding,
        )


def _plan(job: ShardJob, reader: CheckpointReader) -> str:
    """A fingerprint of what is read and what is made of it; equal for a run that goes on where another was killed."""
    folder = reader.path if reader.path.is_dir() else reader.path.parent
    files = sorted(folder / name for name in reader.metadata["files"])
    facts = {
        "files": [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()],
        "weights_only": job.source.weights_only,
        "target": repr(job.target.model_layout) if job.target.model_layout is not None else repr(job.target.strategy),
        "names": [job.prefix, job.form],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _finished(job: ShardJob, plan: str, *, force: bool) -> dict[int, FileRecord]:
    """Files of the same plan that are there, whole and unchanged.

    Raises:
        CheckpointError: the destination holds something else and `force` is False.
    """
    if job.is_file:
        refuse_existing(job.destination, force=force)
        return {}
    recorded, records = _recorded(job.destination)
    if recorded != plan:
        refuse_existing_directory(job.destination, force=force)
        return {}
    found: dict[int, FileRecord] = {}
    for rank in range(job.target.layout.ranks):
        file = job.path(rank)
        record = records.get(str(file.relative_to(job.destination)))
        if record is not None and file.is_file() and file.stat().st_size == record.size and _sha256(file) == record.sha256:
            found[rank] = record
    return found


def _prepare(job: ShardJob, reader: CheckpointReader, left: Sequence[int]) -> None:
    """Make the folder and remove what an earlier run of ours left there: its half written files, with another plan all its files."""
    keep = {job.path(rank) for rank in range(job.target.layout.ranks) if rank not in left}
    try:
        if job.is_file:
            manifest_path(job.destination).unlink(missing_ok=True)
            return
        job.destination.mkdir(parents=True, exist_ok=True)
        records = _recorded(job.destination)[1]
        old = [job.destination / name for name in records if Path(name).parent.name.startswith("rank_")]
        if records:
            old += (job.destination / "strategy").glob("ckpt_strategy_rank_*.ckpt")
        for folder in (".", "strategy", "rank_*"):
            old += job.destination.glob(f"{folder}/.*{TEMPORARY_SUFFIX}")
        for file in old:
            if file not in keep and not file.is_dir():
                file.unlink(missing_ok=True)
        source = reader.path if reader.path.is_dir() else reader.path.parent
        copy_tokenizer(job.destination, Companions(None, source))
    except OSError as error:
        raise write_problem(job.destination, error) from error


def _recorded(folder: Path) -> tuple[str, dict[str, FileRecord]]:
    """Plan and files of the manifest of shards in a folder; nothing when there is none that can be read."""
    try:
        values = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return str(values["sharding"]["plan"]), {entry["name"]: FileRecord(**entry) for entry in values["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return "", {}


def _refuse_source(job: ShardJob, reader: CheckpointReader) -> None:
    """Refuse to write over what is read."""
    folder = reader.path if reader.path.is_dir() else reader.path.parent
    sources = {(folder / name).resolve() for name in reader.metadata["files"]}
    written = {job.path(rank).resolve() for rank in range(job.target.layout.ranks)}
    inside = {file.parent.parent for file in sources if file.parent.name.startswith("rank_")}
    if sources & written or (not job.is_file and job.destination.resolve() in inside):
        raise CheckpointError(job.destination, "is the source; it would be overwritten while it is read.", fix="give another output.")


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(CHUNK_BYTES):
            found.update(data)
    return found.hexdigest()


def _default_workers(total: int) -> int:
    """Processes to write with when nobody says; starting them takes longer than writing a small checkpoint."""
    return 1 if total < _SMALL_BYTES else min(os.cpu_count() or 1, 8)
