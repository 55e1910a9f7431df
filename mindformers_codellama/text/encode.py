"""Text to ids: SentencePiece alone (Meta), or cut at special tokens first (Hugging Face's slow tokenizer)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sentencepiece

from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.join import SPACE_PIECE
from mindformers_codellama.text.special import AddedToken, SpecialTokens


class EncodeRules(NamedTuple):
    """What the ids of a text depend on."""

    processor: sentencepiece.SentencePieceProcessor
    """With the dummy prefix in legacy mode, without it otherwise."""
    added: SpecialTokens
    legacy: bool
    add_prefix_space: bool
    head: str
    """Text encoded before a part that starts with a space, and cut off again; the unknown token's string."""
    head_length: int
    """Ids of `head`."""


def check_text(text: object) -> None:
    """Refuse what is not text.

    Raises:
        TokenizerError: not a string, or a lone surrogate in it, which UTF-8 cannot hold (sentencepiece's own error for it
            changes from version to version).
    """
    if not isinstance(text, str):
        fix = "call encode for one text, tokenizer([...]) for many."
        raise TokenizerError("text", f"must be a string, got {type(text).__name__}.", fix=fix)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"character {error.start} is a lone surrogate ({text[error.start]!r}), which is not text."
        raise TokenizerError("text", problem, fix='decode the source with errors="replace".') from error


def encode_plain(
    processor: sentencepiece.SentencePieceProcessor, text: str, *, head: str = "", marks: Collection[int] = frozenset()
) -> list[int]:
    """SentencePiece alone on `head + text`; `TokenizerError` as `check_text`.

    Args:
        processor: of the tokenizer file.
        text: any text.
        head: encoded before it.
        marks: pieces that text may not become. Where a file has the infilling pieces as ordinary ones, a text that spells
            ` <MID>` would end the prompt it stands in; such pieces are written character by character instead.
    """
    check_text(text)
    ids = list(processor.encode(head + text))
    if not any(mark in ids for mark in marks):
        return ids
    return [piece for token in ids for piece in (_spelled(processor, token) if token in marks else (token,))]


def _spelled(processor: sentencepiece.SentencePieceProcessor, token: int) -> list[int]:
    return [processor.piece_to_id(char) for char in processor.id_to_piece(token)]


def encode_text(text: str, rules: EncodeRules) -> list[int]:
    """Hugging Face's slow encoder, without bos and eos.

    Source: transformers 4.57 tokenization_utils.py and tokenization_llama.py, `tokenize` and `_tokenize`.
    """
    check_text(text)
    if not text:
        return []
    if not rules.legacy:
        text = (SPACE_PIECE if rules.add_prefix_space else "") + text.replace(SPACE_PIECE, " ")
    ids: list[int] = []
    parts = list(rules.added.split(text))
    for part in parts:
        if isinstance(part, AddedToken):
            assert part.id is not None, "ids are given when the tokenizer is built"
            ids.append(part.id)
        elif rules.legacy or not part.startswith((SPACE_PIECE, " ")):
            ids.extend(encode_plain(rules.processor, part))
        else:
            # SentencePiece without its dummy prefix drops a leading space, so a known head is encoded and cut off again
            ids.extend(encode_plain(rules.processor, part, head=rules.head)[rules.head_length :])
    if not rules.legacy and len(ids) > 1 and ids[0] == rules.processor.piece_to_id(SPACE_PIECE) and ids[1] in rules.added.special_ids:
        del ids[0]
    return ids
