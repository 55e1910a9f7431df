"""Tokens that stand outside SentencePiece: `<s>`, `</s>`, `<unk>`, padding and those a checkpoint's config adds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mindformers_codellama.errors import TokenizerError


class AddedToken(NamedTuple):
    """One string that is matched in text as a whole and becomes one id."""

    content: str
    id: int | None = None
    """None: the id of the piece of that name, or the next free id behind the vocabulary."""
    special: bool = True
    """Left out by `skip_special_tokens`."""
    lstrip: bool = False
    """Swallow white space on its left."""
    rstrip: bool = False
    """Swallow white space on its right."""


def require_texts(**tokens: object) -> None:
    """Raise `TokenizerError` for a token, given by name, that is no string."""
    for name, token in tokens.items():
        if not isinstance(token, str):
            raise TokenizerError(name, f"must be a string, got {token!r}.")


class SpecialTokens:
    """Lookup by content and id, and the cutting of a text at these tokens.

    Args:
        tokens: in the order ids are given; a content seen before is ignored.
    """

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self.by_content: dict[str, AddedToken] = {}
        for token in tokens:
            if token.content:
                self.by_content.setdefault(token.content, token)
        self.by_id = {token.id: token for token in self.by_content.values() if token.id is not None}
        # leftmost, then longest, as the trie of transformers' slow tokenizers
        longest_first = sorted(self.by_content, key=len, reverse=True)
        self.pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
        self.special_contents = frozenset(c for c, token in self.by_content.items() if token.special)
        self.special_ids = frozenset(token.id for token in self.by_content.values() if token.special and token.id is not None)

    def split(self, text: str) -> Iterator[str | AddedToken]:
        """Plain parts (never empty) and tokens in the order of the text."""
        parts = self.pattern.split(text) if self.pattern else [text]
        for index, part in enumerate(parts):
            if index % 2:
                yield self.by_content[part]
                continue
            if index and self.by_content[parts[index - 1]].rstrip:
                part = part.lstrip()
            if index + 1 < len(parts) and self.by_content[parts[index + 1]].lstrip:
                part = part.rstrip()
            if part:
                yield part


def give_ids(
    own: Sequence[AddedToken], extra: Sequence[AddedToken], piece_id: Callable[[str], int | None], vocab_size: int
) -> list[AddedToken]:
    """Give every token its id: as stated, else its piece's, else the next free one, in transformers' order.

    Args:
        own: bos, eos, unk and pad.
        extra: tokens of the checkpoint's config; one with the content of an own token states that token's id.
        piece_id: the id of the piece of that name, or None.
        vocab_size: pieces in the model file.
    """
    stated = {token.content: token for token in extra}
    given: dict[str, AddedToken] = {}
    free = max([vocab_size - 1, *(token.id for token in extra if token.id is not None)]) + 1
    for token in [*own, *extra]:
        if token.content in given:
            continue
        special = token.special
        token = stated.get(token.content, token)._replace(special=special)
        if token.id is None:
            found = piece_id(token.content)
            token = token._replace(id=free if found is None else found)
            free += found is None
        given[token.content] = token
    return list(given.values())
