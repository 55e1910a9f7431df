"""What a worker process does: records, paragraphs and blocks of text to ids. Everything here is picklable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mindformers_codellama.data.conversation import BadRecord, to_conversation
from mindformers_codellama.data.encode import Sample, encode_conversation, encode_document, encode_paragraph
from mindformers_codellama.data.fim import FimOptions, FimSample, fim_samples
from mindformers_codellama.data.records import Record, Refused
from mindformers_codellama.data.template import open_template
from mindformers_codellama.data.text_source import Block
from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.tokenizer import LlamaTokenizer


class QaSettings(NamedTuple):
    """What the encoding of conversations depends on."""

    tokenizer: str
    template: str
    form: str
    row_length: int


class FimSettings(NamedTuple):
    """What the encoding of infilling tasks depends on."""

    tokenizer: str
    options: FimOptions
    row_length: int


class Encoded(NamedTuple):
    """One conversation."""

    where: str
    sample: Sample


class Tokens(NamedTuple):
    """Ids of one block of text."""

    ids: np.ndarray
    """int32 `(T,)`."""
    first: bool
    last: bool


class FimBlock(NamedTuple):
    """Infilling tasks of one block of text."""

    samples: list[FimSample]
    first: bool
    """The block begins a document."""


@lru_cache(maxsize=2)
def open_tokenizer(name: str) -> LlamaTokenizer:
    """The tokenizer of a name, directory or file, opened once per process."""
    return AutoTokenizer.from_pretrained(name)


def encode_records(settings: QaSettings, records: Sequence[Record]) -> list[Encoded | Refused]:
    """Encode conversations; a record that cannot be used gives a Refused in its place."""
    tokenizer = open_tokenizer(settings.tokenizer)
    template = open_template(settings.template)
    results: list[Encoded | Refused] = []
    for record in records:
        where = str(record.place)
        if record.problem:
            results.append(Refused(where, "not readable", record.problem))
            continue
        try:
            conversation = to_conversation(record.value, settings.form)
            results.append(Encoded(where, encode_conversation(conversation, template, tokenizer, row_length=settings.row_length)))
        except BadRecord as error:
            results.append(Refused(where, error.reason, str(error)))
        except TokenizerError as error:
            results.append(Refused(where, "not text", error.problem))
    return results


def encode_paragraphs(tokenizer: str, texts: Sequence[str]) -> np.ndarray:
    """int32 ids of wiki paragraphs, one after the other."""
    opened = open_tokenizer(tokenizer)
    return np.concatenate([encode_paragraph(text, opened) for text in texts])


def encode_blocks(tokenizer: str, blocks: Sequence[Block]) -> list[Tokens | Refused]:
    """Ids of blocks of documents; an unusable document gives a Refused."""
    opened = open_tokenizer(tokenizer)
    results: list[Tokens | Refused] = []
    for block in blocks:
        if block.problem:
            results.append(Refused(block.where, "not readable", block.problem))
            continue
        try:
            results.append(Tokens(encode_document(block.text, opened, first=block.first, last=block.last), block.first, block.last))
        except TokenizerError as error:
            results.append(Refused(block.where, "not text", error.problem))
    return results


def encode_fim_blocks(settings: FimSettings, blocks: Sequence[tuple[int, Block]]) -> list[FimBlock | Refused]:
    """Infilling tasks of numbered blocks of documents; an unusable document gives a Refused."""
    opened = open_tokenizer(settings.tokenizer)
    results: list[FimBlock | Refused] = []
    for number, block in blocks:
        if block.problem:
            results.append(Refused(block.where, "not readable", block.problem))
            continue
        try:
            results.append(FimBlock(list(fim_samples(block, number, opened, settings.options, settings.row_length)), block.first))
        except TokenizerError as error:
            results.append(Refused(block.where, "not text", error.problem))
    return results
