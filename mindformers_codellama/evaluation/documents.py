"""Texts whose perplexity is measured, with the words and bytes it is told by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from mindformers_codellama.data.text_source import find_text_files, read_blocks, read_pieces
from mindformers_codellama.data.wikitext import clean
from mindformers_codellama.errors import DataError, raise_all

KINDS = ("text", "wiki")
"""`text`: as it is. `wiki`: WikiText, cleaned as MindFormers' `llama_preprocess.py` does before it is encoded."""


class Document(NamedTuple):
    """A text that is read by itself."""

    name: str
    text: str
    """As the model reads it."""
    words: int
    """Pieces between white space of the text as it was."""
    bytes: int
    """UTF-8 bytes of the text as it was."""


def read_documents(sources: Sequence[str], *, kind: str = "text", split: str = "held-out") -> list[Document]:
    """Every document of the sources, in order.

    Args:
        sources: files, folders, globs or `python-stdlib`; of JSON Lines each record with `text` or `content` is a document.
        kind: one of `KINDS`.
        split: `held-out` or `train`, which part of `python-stdlib`.

    Raises:
        DataError: no file, no text in them, or files and records that cannot be used; the first ten of them.
    """
    documents: list[Document] = []
    findings: list[DataError] = []
    for path in find_text_files(sources, split=split):
        if kind == "wiki":
            documents.append(_wiki(path))
            continue
        for where, blocks in groupby(read_blocks(path), key=lambda block: block.where):
            parts = list(blocks)
            findings += [DataError(where, block.problem, fix="leave it out.") for block in parts if block.problem]
            text = "".join(block.text for block in parts)
            if text:
                documents.append(Document(where, text, len(text.split()), len(text.encode())))
    raise_all(findings[:10])
    if not documents:
        raise DataError(", ".join(sources), "holds no text.", fix="give files with text.")
    return documents


def _wiki(path: Path) -> Document:
    """A whole file; words and bytes are the file's own, as is customary for WikiText."""
    pieces = list(read_pieces(path))
    text = "".join(pieces)
    return Document(str(path), "".join(clean(iter(pieces))), len(text.split()), len(text.encode()))


def total(documents: Sequence[Document]) -> dict[str, int]:
    """Documents, words and bytes."""
    return {
        "documents": len(documents),
        "words": sum(document.words for document in documents),
        "bytes": sum(document.bytes for document in documents),
    }


def names(documents: Sequence[Document]) -> Iterator[str]:
    """What a digest of the data is made of."""
    for document in documents:
        yield f"{document.name}\0{document.text}\0"
