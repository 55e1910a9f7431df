"""Tokens to text as transformers 4.57's slow LlamaTokenizer does it, with its rules of spaces around special tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import sentencepiece

SPACE_PIECE = "\u2581"


class JoinRules(NamedTuple):
    """What the text of a row of tokens depends on."""

    processor: sentencepiece.SentencePieceProcessor
    special: Collection[str]
    """Written as they are; the pieces between two of them are decoded together."""
    split_off: Collection[str]
    """Added tokens that stand as a word of their own, with a space on both sides."""
    legacy: bool
    add_prefix_space: bool


def segments(tokens: Sequence[str], split_off: Collection[str]) -> Iterator[str | list[str]]:
    """Split-off tokens alone, the runs between them as lists."""
    run: list[str] = []
    for token in tokens:
        if token in split_off:
            if run:
                yield run
            run = []
            yield token
        else:
            run.append(token)
    if run:
        yield run


def join_tokens(tokens: Sequence[str], rules: JoinRules) -> str:
    """The text of all tokens.

    Source: transformers 4.57 tokenization_utils.py `_decode`: segments are joined by one space, and a run without text counts
    only when it is the last.
    """
    texts = []
    parts = list(segments(tokens, rules.split_off))
    for index, part in enumerate(parts):
        text = part if isinstance(part, str) else join_run(part, rules)
        if text or index == len(parts) - 1:
            texts.append(text)
    return " ".join(texts)


def join_run(tokens: Sequence[str], rules: JoinRules) -> str:
    """The text of a run without split-off tokens.

    Source: transformers 4.57 tokenization_llama.py `convert_tokens_to_string`. Its two habits are kept, for they decide what
    users see: a first token loses its space mark before SentencePiece, which takes one more, decodes it; and in legacy mode a
    space is written before the run that ends at a special token, not before the token.
    """
    tokens = list(tokens)
    if tokens[0].startswith(SPACE_PIECE) and rules.add_prefix_space:
        tokens[0] = tokens[0][1:]
    run: list[str] = []
    text, after_special = "", False
    for index, token in enumerate(tokens):
        if token in rules.special:
            if not after_special and index and rules.legacy:
                text += " "
            text += rules.processor.decode(run) + token
            run, after_special = [], True
        else:
            if after_special and index == 1 and rules.add_prefix_space and not token.startswith(SPACE_PIECE):
                text += " "
            run.append(token)
            after_special = False
    return text + rules.processor.decode(run)
