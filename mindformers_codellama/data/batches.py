"""Batches of token rows from mindrecord, in an order that is a pure function of the seed and the epoch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mindformers_codellama.config.sections_data import DatasetSection
from mindformers_codellama.data.fim_check import fim_findings
from mindformers_codellama.data.manifest import Manifest, read_manifest
from mindformers_codellama.data.mindrecord_files import find_mindrecords, read_header
from mindformers_codellama.errors import DataError, TokenizerError, raise_all

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]
"""Column to int32 `(micro_batch, row_length)`."""

_ROWS_AT_ONCE = 1 << 16
"""Rows of one MindDataset; a new one is opened for the next rows, so the list of row numbers stays short."""


class BatchSource:
    """One checked dataset; made by `open_batches`.

    Args:
        files: data files in reading order.
        rows: rows used of all files together.
        section: the dataset's settings.
        batch_size: rows per batch and rank.
        row_length: ids every row must have.
        vocab_size: the model's vocabulary.
        seed: of the order.
        rank: which part of every global batch is read.
        world_size: ranks that share a global batch.
        strided: a rank takes every `world_size`-th row of a global batch instead of neighbouring ones.
    """

    def __init__(  # noqa: PLR0913 - one value per fact, all named
        self,
        files: Sequence[Path],
        rows: int,
        *,
        section: DatasetSection,
        batch_size: int,
        row_length: int,
        vocab_size: int,
        seed: int,
        rank: int,
        world_size: int,
        strided: bool = False,
    ) -> None:
        self.files = tuple(files)
        self.rows = rows
        self.columns: tuple[str, ...] = tuple(section.input_columns)
        self._section = section
        self._batch_size, self._row_length, self._vocab_size = batch_size, row_length, vocab_size
        self._seed, self._rank, self._world_size, self._strided = seed, rank, world_size, strided

    @property
    def row_length(self) -> int:
        """Ids of every row."""
        return self._row_length

    @property
    def batches_per_pass(self) -> int:
        """Batches of one reading of the files; `repeat` readings make an epoch."""
        global_batch = self._batch_size * self._world_size
        return self.rows // global_batch if self._section.drop_remainder else -(-self.rows // global_batch)

    @property
    def batches_per_epoch(self) -> int:
        """Batches `epoch` yields when it starts from 0."""
        return self.batches_per_pass * self._section.repeat

    def row_order(self, epoch: int, reading: int = 0) -> np.ndarray:
        """int64 `(rows,)`: row numbers in the order they are used, over all ranks."""
        if not self._section.data_loader.shuffle:
            return np.arange(self.rows)
        return np.random.default_rng((self._seed, epoch, reading)).permutation(self.rows)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch.

        Args:
            epoch: from 0; selects the order.
            start: first batch to yield; `epoch(e, start=k)` equals `epoch(e)` without its first k batches.

        Raises:
            DataError: a damaged row or file.
            TokenizerError: an id at or above the model's vocabulary.
        """
        per_pass = self.batches_per_pass
        for reading in range(start // per_pass if per_pass else 0, self._section.repeat):
            first = max(start - reading * per_pass, 0)
            yield from self._batches(self._wanted(epoch, reading, first), epoch)

    def _wanted(self, epoch: int, reading: int, first: int) -> list[np.ndarray]:
        """Row numbers of each batch of this rank, from batch `first` of one reading."""
        order = self.row_order(epoch, reading)
        size, world = self._batch_size, self._world_size
        if self._strided:
            own = order[self._rank :: world]
            return [own[at : at + size] for at in range(first * size, len(own), size)[: self.batches_per_pass - first]]
        starts = range((first * world + self._rank) * size, len(order), size * world)
        return [order[at : at + size] for at in starts[: self.batches_per_pass - first]]

    def _batches(self, wanted: list[np.ndarray], epoch: int) -> Iterator[Batch]:
        per_block = max(_ROWS_AT_ONCE // self._batch_size, 1)
        for at in range(0, len(wanted), per_block):
            block = wanted[at : at + per_block]
            rows = self._read(np.concatenate(block))
            for numbers in block:
                taken = [next(rows, None) for _ in numbers]
                yield self._checked([row for row in taken if row is not None], numbers, epoch)

    def _checked(self, taken: list[Batch], numbers: np.ndarray, epoch: int) -> Batch:
        """Stack rows to a batch after checking their count, length and ids."""
        where = f"{self.files[0]}: epoch {epoch}, rows {numbers[:3].tolist()}..."
        if len(taken) != len(numbers):
            raise DataError(where, f"{len(taken)} of {len(numbers)} rows could be read.", fix="prepare the data again.")
        for row in taken:
            _check_row(row, self._row_length, where)
        batch = {column: np.stack([row[column] for row in taken]).astype(np.int32, copy=False) for column in self.columns}
        ids = batch["input_ids"]
        if ids.min() < 0:
            raise DataError(where, f"holds the token id {ids.min()}: the file is damaged.", fix="copy it again, or prepare the data again.")
        if ids.max() >= self._vocab_size:
            raise _vocabulary_error(where, int(ids.max()), self._vocab_size)
        return batch

    def _read(self, numbers: np.ndarray) -> Iterator[Batch]:
        """Rows by number through MindDataset."""
        from mindspore.dataset import MindDataset, SubsetSampler

        workers = min(self._section.num_parallel_workers, os.cpu_count() or 1)
        try:
            dataset = MindDataset(
                [str(file) for file in self.files],
                columns_list=list(self.columns),
                sampler=SubsetSampler(numbers.tolist()),
                num_parallel_workers=workers,
            )
            yield from dataset.create_dict_iterator(num_epochs=1, output_numpy=True)
        except (RuntimeError, ValueError, TypeError) as error:
            reason = next((line for line in str(error).split("\n") if "[ERROR]" in line), str(error).split("\n")[0])
            raise DataError(self.files[0], f"MindDataset cannot read the file: {reason.strip()}", fix="prepare the data again.") from error


def open_batches(  # noqa: PLR0913 - one value per fact, all named
    dataset_section: DatasetSection,
    *,
    batch_size: int,
    row_length: int,
    vocab_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    strided: bool = False,
    uneven: bool = False,
) -> BatchSource:
    """Find the files, check them against the model, and return their batches.

    Args:
        dataset_section: `train_dataset` or `eval_dataset`; its own seed wins over `seed`.
        batch_size: rows per batch and rank.
        row_length: `model.model_config.seq_length + 1`.
        vocab_size: the model's vocabulary.
        seed: the run's seed.
        rank: of `world_size`; a global batch is the same rows for any number of ranks.
        world_size: ranks that share a global batch.
        strided: a rank takes every `world_size`-th row of a global batch instead of neighbouring ones; either way all ranks
            together take the same rows.
        uneven: without `drop_remainder` the ranks may get parts of different sizes of the last batch, or none.

    Raises:
        DataError: no file, a missing part, a damaged file, a missing column, another row length, fewer rows than a batch;
            all findings at once.
        TokenizerError: the data was made with a tokenizer larger than the model's vocabulary.
    """
    loader = dataset_section.data_loader
    paths = [Path(name) for name in loader.dataset_files] or [Path(loader.dataset_dir)]
    if not loader.given:
        raise DataError("data_loader.dataset_dir", "names no data.", fix="write a mindrecord file or a folder that holds some.")
    files = find_mindrecords(paths)
    findings: list[DataError | TokenizerError] = []
    rows = 0
    for file in files:
        header = read_header(file)
        rows += header.rows
        findings += _check_file(file, header.columns, dataset_section, row_length, vocab_size)
    raise_all(findings)
    if loader.num_samples is not None:
        rows = min(rows, loader.num_samples)
    section_seed = seed if dataset_section.seed is None else dataset_section.seed
    source = BatchSource(
        files,
        rows,
        section=dataset_section,
        batch_size=batch_size,
        row_length=row_length,
        vocab_size=vocab_size,
        seed=section_seed,
        rank=rank,
        world_size=world_size,
        strided=strided,
    )
    _check_size(source, files[0], batch_size, world_size, divides=dataset_section.drop_remainder or uneven)
    for row in source._read(np.zeros(1, np.int64)):
        _check_row(row, row_length, f"{files[0]}: row 0")
    logger.debug("%d rows in %d file(s), %d batches per epoch", rows, len(files), source.batches_per_epoch)
    return source


def _check_file(
    file: Path, columns: Sequence[str], section: DatasetSection, row_length: int, vocab_size: int
) -> list[DataError | TokenizerError]:
    """What of one file does not fit the configuration, from its header and manifest."""
    found: list[DataError | TokenizerError] = []
    for column in section.input_columns:
        if column not in columns:
            found.append(
                DataError(
                    file, f"has no column {column!r}.", fix=f"its columns are {', '.join(columns)}: correct input_columns, or the file."
                )
            )
    manifest = read_manifest(file)
    found += fim_findings(file, manifest, section)
    if manifest is None:
        return found
    if manifest.seq_length + 1 != row_length:
        found.append(_length_error(file, manifest.seq_length + 1, row_length))
    if manifest.max_token_id >= vocab_size:
        found.append(_vocabulary_error(str(file), manifest.max_token_id, vocab_size, manifest))
    if manifest.packed and not {"segment_ids", "position_ids"}.issubset(section.input_columns):
        found.append(
            DataError(
                file,
                "is packed, but input_columns does not read segment_ids and position_ids, so samples would see each other.",
                fix="write input_columns: [input_ids, labels, segment_ids, position_ids].",
            )
        )
    if "labels" in columns and "labels" not in section.input_columns:
        logger.warning("%s has labels, but input_columns does not read them: questions are learned like answers", file)
    return found


def _check_size(source: BatchSource, file: Path, batch_size: int, world_size: int, *, divides: bool) -> None:
    if source.rows == 0:
        raise DataError(file, "the dataset is empty.", fix="prepare the data again and read the counts it prints.")
    global_batch = batch_size * world_size
    if source.batches_per_pass == 0:
        raise DataError(
            file,
            f"has {source.rows} rows, less than one batch of {global_batch}.",
            fix="use a smaller runner_config.batch_size, more data, or drop_remainder: False.",
        )
    if world_size > 1 and not divides and source.rows % global_batch:
        raise DataError(
            file,
            f"{source.rows} rows do not divide into batches of {global_batch} over {world_size} ranks.",
            fix="write drop_remainder: True.",
        )


def _check_row(row: Batch, row_length: int, where: str) -> None:
    for values in row.values():
        if values.shape != (row_length,):
            raise _length_error(where, values.size, row_length)


def _length_error(where: object, found: int, row_length: int) -> DataError:
    return DataError(
        where,
        f"rows hold {found} ids, but seq_length {row_length - 1} needs rows of {row_length}.",
        fix=f"write model.model_config.seq_length: {found - 1}, or prepare the data with --seq-length {row_length - 1}.",
    )


def _vocabulary_error(where: str, token: int, vocab_size: int, manifest: Manifest | None = None) -> TokenizerError:
    made = "the tokenizer it was made with"
    if manifest is not None:
        made = (
            f"the tokenizer {manifest.tokenizer or 'of ' + manifest.tokenizer_sha256[:8]} ({manifest.vocab_size} pieces) it was made with"
        )
    return TokenizerError(
        where,
        f"holds the token id {token}, but the model's vocabulary is {vocab_size} (model.model_config.vocab_size): "
        f"{made} and the model disagree.",
        fix="prepare the data with the model's own tokenizer, or use the model this tokenizer belongs to.",
    )
