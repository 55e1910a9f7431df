"""Windows of a mindrecord: its rows, cut where samples meet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_data import DataLoaderSection, DatasetSection
from mindformers_codellama.data.batches import open_batches
from mindformers_codellama.data.manifest import read_manifest
from mindformers_codellama.data.mindrecord_files import find_mindrecords, read_header
from mindformers_codellama.errors import DataError
from mindformers_codellama.evaluation.windows import Window

COLUMNS = ("input_ids", "labels", "segment_ids", "position_ids")


def row_windows(path: Path, config: ModelConfig) -> Iterator[Window]:
    """Every sequence of a mindrecord set that has something to predict; what counts is what training counts.

    Args:
        path: a file of the set.
        config: of the model; rows hold `config.seq_length` + 1 ids when no manifest says otherwise.

    Raises:
        DataError: files that cannot be read, or rows longer than the model's positions.
        TokenizerError: ids the model does not have.
    """
    from mindformers_codellama.pipelines.evaluate_packed import sequences

    manifest = read_manifest(path)
    length = (manifest.seq_length if manifest is not None else config.seq_length) + 1
    if length > config.seq_length + 1:
        problem = f"holds rows of {length - 1} tokens, the model has {config.seq_length} positions."
        raise DataError(path, problem, fix=f"prepare it with --seq-length {config.seq_length}, or give --seq-length {length - 1}.")
    there = read_header(find_mindrecords([path])[0]).columns
    section = DatasetSection(
        data_loader=DataLoaderSection(dataset_dir=str(path), shuffle=False),
        input_columns=tuple(name for name in COLUMNS if name in there),
        drop_remainder=False,
    )
    source = open_batches(section, batch_size=1, row_length=length, vocab_size=config.vocab_size, seed=0, uneven=True)
    for row, batch in enumerate(source.epoch(0)):
        for part, one in enumerate(sequences(batch, config.pad_token_id, config.ignore_token_id)):
            if one.weight.any():
                yield Window(f"{path.name}:{row}:{part}", one.tokens, one.labels, one.weight)
