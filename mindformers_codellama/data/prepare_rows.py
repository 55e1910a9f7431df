"""Streams of rows: conversations padded or packed, wiki text cut, documents cut or packed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from mindformers_codellama.data.conversation import form_of
from mindformers_codellama.data.packing import Piece, pack, split_document
from mindformers_codellama.data.parallel import batched, ordered_map
from mindformers_codellama.data.prepare_request import PrepareRequest
from mindformers_codellama.data.prepare_work import (
    Encoded,
    FimBlock,
    FimSettings,
    QaSettings,
    Tokens,
    encode_blocks,
    encode_fim_blocks,
    encode_paragraphs,
    encode_records,
)
from mindformers_codellama.data.records import Refused, read_records, total_bytes
from mindformers_codellama.data.rows import Row, StreamCutter, padded_row
from mindformers_codellama.data.tally import Tally
from mindformers_codellama.data.text_source import Block, read_blocks, read_pieces
from mindformers_codellama.data.wikitext import clean, paragraphs
from mindformers_codellama.errors import DataError

_RECORDS_AT_ONCE = 64
_PARAGRAPHS_AT_ONCE = 128
_BLOCKS_AT_ONCE = 8
_SMALL = 1 << 20
"""Bytes below which starting worker processes takes longer than the work."""

Note = Callable[[int], object]
_Item = TypeVar("_Item")
_Usable = TypeVar("_Usable", Tokens, FimBlock)
_ORDERS = {"psm": "infilling tasks, prefix first", "spm": "infilling tasks, suffix first", "plain": "left as they are"}
"""Names of the counts."""


def make_rows(request: PrepareRequest, tally: Tally) -> Iterator[Row]:
    """The rows of all inputs in order, with a progress bar over the bytes read.

    Args:
        request: what to do.
        tally: filled on the way; `tally.sources` gets the number of records of each input.

    Raises:
        DataError: bad input; bad records unless they are skipped.
    """
    hidden = None if request.progress is None else not request.progress
    total = total_bytes(request.inputs)
    workers = request.workers if total > _SMALL else 1
    streams = {"qa": _qa_rows, "wiki": _wiki_rows, "text": _text_rows}
    with tqdm(total=total * request.repeat, unit="B", unit_scale=True, desc="prepare", disable=hidden) as bar:
        yield from streams[request.kind](request, tally, workers, bar.update)
    tally.raise_bad()


def _qa_rows(request: PrepareRequest, tally: Tally, workers: int, note: Note) -> Iterator[Row]:
    samples = _samples(request, tally, workers, note)
    if request.pack:
        return pack((Piece(item.sample.ids, item.sample.labels) for item in samples), request.row_length)
    return (padded_row(item.sample, request.row_length) for item in samples)


def _samples(request: PrepareRequest, tally: Tally, workers: int, note: Note) -> Iterator[Encoded]:
    """Usable samples of every file, the others counted."""
    for number, path in enumerate(request.inputs):
        records = _counted(read_records(path, note), tally, number)
        first = next(records, None)
        if first is None:
            continue
        form = request.form if request.form != "auto" else form_of(first)
        settings = QaSettings(request.tokenizer, request.template, form, request.row_length)
        batches = batched(chain([first], records), _RECORDS_AT_ONCE)
        for results in ordered_map(partial(encode_records, settings), batches, workers=workers):
            for result in results:
                if isinstance(result, Refused):
                    tally.refuse(result)
                elif _kept(result, request, tally):
                    yield result


def _kept(item: Encoded, request: PrepareRequest, tally: Tally) -> bool:
    """Count a sample; False when it is left out."""
    sample = item.sample
    tally.counts["samples"] += 1
    tally.counts["samples cut to the row length"] += sample.truncated
    tally.counts["special spellings kept as text"] += sample.special_spelling
    tally.counts["last questions without an answer left out"] += sample.dropped_turn
    if sample.learns:
        return True
    tally.note_masked(item.where)
    if request.all_masked == "refuse":
        raise DataError(
            item.where,
            f"has no label left: its answer begins beyond the {request.row_length} ids of a row.",
            fix="use a larger --seq-length, or --all-masked drop.",
        )
    return request.all_masked == "keep"


def _wiki_rows(request: PrepareRequest, tally: Tally, workers: int, note: Note) -> Iterator[Row]:
    def texts() -> Iterator[str]:
        for _ in range(request.repeat):
            for number, path in enumerate(request.inputs):
                yield from _counted(paragraphs(clean(read_pieces(path, note))), tally, number)

    batches = batched(texts(), _PARAGRAPHS_AT_ONCE)
    return _cut(ordered_map(partial(encode_paragraphs, request.tokenizer), batches, workers=workers), request, tally)


def _text_rows(request: PrepareRequest, tally: Tally, workers: int, note: Note) -> Iterator[Row]:
    blocks = _blocks(request, tally, note)
    if request.fim is not None:
        return _fim_rows(blocks, FimSettings(request.tokenizer, request.fim, request.row_length), request.columns, tally, workers)
    tokens = _usable(ordered_map(partial(encode_blocks, request.tokenizer), batched(blocks, _BLOCKS_AT_ONCE), workers=workers), tally)
    if not request.pack:
        return _cut((item.ids for item in tokens), request, tally)
    pieces = (piece for document in _documents(tokens) for piece in split_document(document, request.row_length))
    return pack(pieces, request.row_length)


def _blocks(request: PrepareRequest, tally: Tally, note: Note) -> Iterator[Block]:
    for _ in range(request.repeat):
        for number, path in enumerate(request.inputs):
            for block in read_blocks(path, note):
                tally.sources[number] += block.first
                yield block


def _fim_rows(blocks: Iterable[Block], settings: FimSettings, columns: Sequence[str], tally: Tally, workers: int) -> Iterator[Row]:
    """Infilling tasks, none of them cut: several in a row, as `pack` puts them, with the columns asked for."""

    def pieces() -> Iterator[Piece]:
        batches = batched(enumerate(blocks), _BLOCKS_AT_ONCE)
        for item in _usable(ordered_map(partial(encode_fim_blocks, settings), batches, workers=workers), tally):
            tally.counts["parts of long documents"] += len(item.samples) if len(item.samples) > 1 else 0
            for sample in item.samples:
                tally.counts[_ORDERS[sample.order]] += 1
                yield sample.piece

    return ({column: row[column] for column in columns} for row in pack(pieces(), settings.row_length))


def _usable(batches: Iterable[list[_Usable | Refused]], tally: Tally) -> Iterator[_Usable]:
    for results in batches:
        for result in results:
            if isinstance(result, Refused):
                tally.refuse(result)
            else:
                tally.counts["documents"] += result.first
                yield result


def _documents(tokens: Iterable[Tokens]) -> Iterator[np.ndarray]:
    """Whole documents from their blocks; one of several hundred MB is held as ids while it is cut."""
    parts: list[np.ndarray] = []
    for item in tokens:
        parts.append(item.ids)
        if item.last:
            yield np.concatenate(parts)
            parts = []


def _cut(arrays: Iterable[np.ndarray], request: PrepareRequest, tally: Tally) -> Iterator[Row]:
    cutter = StreamCutter(request.row_length)
    yield from cutter.cut(arrays)
    tally.counts["tokens left over"] += len(cutter.rest)


def _counted(items: Iterable[_Item], tally: Tally, number: int) -> Iterator[_Item]:
    """Pass items on, counting them as records of input `number`."""
    for item in items:
        tally.sources[number] += 1
        yield item
