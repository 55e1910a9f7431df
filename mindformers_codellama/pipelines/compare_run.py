"""`codellama quantize --evaluate`: a packed directory against the checkpoint it was made from, on data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.checkpoint.packed_manifest import MANIFEST_FILE, read_packed_manifest, write_packed_manifest
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_data import DataLoaderSection, DatasetSection
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.data.batches import open_batches
from mindformers_codellama.data.manifest import read_manifest
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.kernels.choose import choose_kernels, plain_operators
from mindformers_codellama.pipelines.compare_weights import compare_models
from mindformers_codellama.pipelines.evaluate_packed import sequences
from mindformers_codellama.pipelines.row_logits import row_logits
from mindformers_codellama.pipelines.weight_form import open_causal_lm
from mindformers_codellama.runtime.context import enter_context
from mindformers_codellama.text.auto import AutoTokenizer

Ids = NDArray[np.int32]
TEXT_ROW = 512
"""Tokens of a row cut from a text."""


def compare_with_source(
    source: Path, target: Path, data: Path, *, rows: int = 64, progress: Callable[[int, int], object] | None = None
) -> dict[str, Any]:
    """Compare, and write the numbers into the manifest of `target`.

    The float32 side is computed with plain MindSpore operators, the packed side as prediction computes it.

    Args:
        source: the checkpoint `target` was made from.
        target: directory of packed weights with its tokenizer.
        data: a mindrecord file, or a text file.
        rows: the first so many rows of the data; 0 takes all.
        progress: called with (rows done, rows in all).

    Raises:
        ConfigError, DataError, CheckpointError: data or weights that cannot be used.
    """
    if rows < 0:
        raise ConfigError("--evaluate-rows", f"got {rows}, must be at least 0.")
    manifest = read_packed_manifest(target)
    config = manifest.model
    found = list(islice(data_rows(data, config, target), rows or None))
    context = ContextSection(device_target="CPU")
    enter_context(context)
    choose_kernels(device="CPU")
    length = max((len(row) for row in found), default=1)
    config = replace(config, seq_length=max(config.seq_length, length))
    with plain_operators():
        reference = open_causal_lm(config, source, form="float32")
        expected = row_logits(reference, length)
    packed = open_causal_lm(config, target)
    comparison = compare_models(found, expected, row_logits(packed, length), progress=progress)
    numbers: dict[str, Any] = {"data": data.name, "rows": len(found), **comparison.as_dict()}
    write_packed_manifest(target / MANIFEST_FILE, replace(manifest, evaluation=numbers))
    return numbers


def data_rows(data: Path, config: ModelConfig, tokenizer: Path) -> Any:
    """Rows of token ids: the sequences of a mindrecord file without padding, or a text in rows of `TEXT_ROW` tokens.

    Raises:
        DataError: the file cannot be read.
        TokenizerError: no tokenizer for a text, or ids the model does not have.
    """
    if data.suffix != ".mindrecord":
        return _text_rows(data, config, tokenizer)
    manifest = read_manifest(data)
    length = (manifest.seq_length if manifest is not None else config.seq_length) + 1
    packed = manifest is not None and manifest.packed
    columns = ("input_ids", "segment_ids", "position_ids") if packed else ("input_ids",)
    section = DatasetSection(
        data_loader=DataLoaderSection(dataset_dir=str(data), shuffle=False), input_columns=columns, drop_remainder=False
    )
    source = open_batches(section, batch_size=1, row_length=length, vocab_size=config.vocab_size, seed=0, rank=0, world_size=1, uneven=True)
    return (_with_last(one) for batch in source.epoch(0) for one in sequences(batch, config.pad_token_id, config.ignore_token_id))


def _with_last(one: Any) -> Ids:
    """Tokens and the label of the last of them."""
    end = one.labels[-1:] if one.weight[-1] else one.labels[:0]
    return np.concatenate([one.tokens, end]).astype(np.int32)


def _text_rows(data: Path, config: ModelConfig, tokenizer: Path) -> Any:
    try:
        text = data.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(data, f"cannot be read as text: {error}.", fix="give a mindrecord file or a UTF-8 text.") from error
    words = AutoTokenizer.from_pretrained(str(tokenizer))
    ids = np.asarray(words.encode(text), np.int32)
    step = min(TEXT_ROW, config.seq_length)
    return (ids[at : at + step] for at in range(0, len(ids), step))
