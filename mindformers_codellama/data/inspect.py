"""Look into a mindrecord: what it says about itself, whether it is whole, and rows as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_codellama.config.sections_data import DataLoaderSection, DatasetSection
from mindformers_codellama.data.batches import open_batches
from mindformers_codellama.data.encode import IGNORE
from mindformers_codellama.data.manifest import Manifest, read_manifest
from mindformers_codellama.data.mindrecord_files import find_mindrecords, read_header
from mindformers_codellama.data.prepare_work import open_tokenizer
from mindformers_codellama.data.records import sha256_of
from mindformers_codellama.data.rows import PAD
from mindformers_codellama.errors import DataError, raise_all

_ANY_ID = 2**31 - 1


@dataclass(frozen=True)
class Inspection:
    """One set of mindrecord files."""

    files: tuple[str, ...]
    rows: int
    columns: tuple[str, ...]
    row_length: int
    manifest: Manifest | None
    """None beside a file MindFormers wrote."""
    shown: tuple[dict[str, Any], ...]
    """The rows asked for, see `describe_row`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def inspect_mindrecord(path: Path, *, rows: Sequence[int] = (), tokenizer: str | None = None, verify: bool = False) -> Inspection:
    """Read the headers, the manifest and some rows.

    Args:
        path: a file, a set or a folder.
        rows: row numbers to show.
        tokenizer: name, directory or file; with it ids are shown as text.
        verify: read every byte and compare with the manifest.

    Raises:
        DataError: missing parts, damage, a row number out of range, a tokenizer other than the manifest's.
    """
    files = find_mindrecords([path])
    headers = [read_header(file) for file in files]
    total = sum(header.rows for header in headers)
    manifest = read_manifest(files[0])
    if verify:
        _verify(path, files, manifest)
    opened = open_tokenizer(tokenizer) if tokenizer else None
    if opened is not None and manifest is not None and opened.sha256 != manifest.tokenizer_sha256:
        raise DataError(
            opened.path, f"is not the tokenizer {path} was made with (another SHA-256).", fix="give the tokenizer the data was made with."
        )
    if total == 0:
        raise DataError(path, "holds no rows.", fix="prepare the data again and read the counts it prints.")
    for number in rows:
        if not 0 <= number < total:
            raise DataError(path, f"has no row {number}; it has {total}.", fix=f"write a number from 0 to {total - 1}.")
    length = _first_length(files, headers[0].columns)
    section = DatasetSection(
        data_loader=DataLoaderSection(dataset_files=tuple(map(str, files)), shuffle=False),
        input_columns=headers[0].columns,
        drop_remainder=False,
    )
    source = open_batches(section, batch_size=1, row_length=length, vocab_size=_ANY_ID, seed=0)
    shown = []
    for number in rows:
        batch = next(source.epoch(0, start=number))
        shown.append({"row": number} | describe_row({column: values[0] for column, values in batch.items()}, opened))
    return Inspection(tuple(map(str, files)), total, headers[0].columns, length, manifest, tuple(shown))


def _verify(path: Path, files: Sequence[Path], manifest: Manifest | None) -> None:
    """Raise DataError for every file whose bytes are not those the manifest was made with."""
    if manifest is None or not manifest.file_sha256:
        raise DataError(path, "has no manifest with checksums.", fix="leave --verify out, or prepare the data with this package.")
    known = dict(zip(manifest.files, manifest.file_sha256, strict=True))
    raise_all(
        DataError(file, "is damaged: its bytes are not those that were written.", fix="copy it again, or prepare the data again.")
        for file in files
        if known.get(file.name) != sha256_of(file)
    )


def _first_length(files: Sequence[Path], columns: Sequence[str]) -> int:
    from mindspore.dataset import MindDataset

    if "input_ids" not in columns:
        raise DataError(files[0], f"has no column 'input_ids', only {', '.join(columns)}.", fix="prepare the data with this package.")
    dataset = MindDataset(str(files[0]), columns_list=["input_ids"], shuffle=False, num_samples=1)
    try:
        return int(next(iter(dataset.create_dict_iterator(num_epochs=1, output_numpy=True)))["input_ids"].size)
    except RuntimeError as error:
        raise DataError(files[0], "cannot be read; it is damaged.", fix="prepare the data again.") from error


def describe_row(row: dict[str, np.ndarray], tokenizer: Any = None) -> dict[str, Any]:
    """Counts of one row, and with a tokenizer its text and the part that is learned.

    Args:
        row: int32 `(row_length,)` per column.
        tokenizer: a LlamaTokenizer or None.
    """
    ids = row["input_ids"]
    used = int(np.max(np.flatnonzero(ids != PAD), initial=-1)) + 1
    labels = row.get("labels", ids)
    learned = labels[:used][labels[:used] != IGNORE]
    found: dict[str, Any] = {"tokens": used, "learned": int(learned.size)}
    if "segment_ids" in row:
        found["samples"] = int(row["segment_ids"].max())
    if tokenizer is None:
        return found | {"input_ids": ids[:used].tolist()}
    found["text"] = _as_text(ids[:used].tolist(), tokenizer)
    if "labels" in row:
        found["learned_text"] = _as_text(learned.tolist(), tokenizer)
    return found


def _as_text(ids: list[int], tokenizer: Any) -> str:
    """Text of ids; where infilling marks are among them these are written out, and every space stands as the ids have it."""
    ends = ("prefix_id", "<PRE>"), ("suffix_id", "<SUF>"), ("middle_id", "<MID>"), ("eot_id", "<EOT>")
    marks = {getattr(tokenizer, name): mark for name, mark in ends}
    if not any(token in marks for token in ids):
        return str(tokenizer.decode(ids))
    marks |= {tokenizer.bos_token_id: tokenizer.bos_token, tokenizer.eos_token_id: tokenizer.eos_token}
    parts = [(marked, list(group)) for marked, group in groupby(ids, key=marks.__contains__)]
    return "".join("".join(marks[token] for token in part) if marked else tokenizer.decode_infilling(part) for marked, part in parts)
