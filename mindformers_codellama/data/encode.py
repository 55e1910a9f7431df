"""Text to token ids and labels: one conversation, one paragraph, one document.

Ids are those of MindFormers' `llama_preprocess.py`; the mask is computed from the parts of the conversation instead of
by splitting its text again, so it cannot disagree with the ids.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mindformers_codellama.data.conversation import Conversation
from mindformers_codellama.data.template import Template
from mindformers_codellama.text.tokenizer import LlamaTokenizer

IGNORE = -100
SPECIAL_SPELLINGS = ("<s>", "</s>", "<unk>")


class Sample(NamedTuple):
    """One conversation as ids, before padding."""

    ids: np.ndarray
    """int32 `(T,)`, at most the row length."""
    labels: np.ndarray
    """int32 `(T,)`: the id where it is learned, IGNORE elsewhere."""
    truncated: bool
    """The conversation was longer than the row."""
    special_spelling: bool
    """The text spells `<s>`, `</s>` or `<unk>`; it was kept as plain text."""
    dropped_turn: bool
    """A last question without an answer was left out."""

    @property
    def learns(self) -> bool:
        """Whether any label is left; the first id is never predicted."""
        return bool((self.labels[1:] != IGNORE).any())


def encode_conversation(conversation: Conversation, template: Template, tokenizer: LlamaTokenizer, *, row_length: int) -> Sample:
    """Ids and labels of one conversation, cut to `row_length`.

    Each round is encoded by itself and ends with the end-of-sequence id, which is learned together with the answer;
    questions, system text and the first id are not, nor is the end of a round without an answer.

    Args:
        conversation: turns with answers.
        template: the text around them.
        tokenizer: ids.
        row_length: seq_length + 1.
    """
    ids: list[int] = []
    labels: list[int] = []
    special = False
    for number, part in enumerate(template.rounds(conversation)):
        bos = number == 0 or template.bos_each_round
        whole = tokenizer.encode_pieces(part.prompt + part.answer, bos=bos, eos=True)
        asked = tokenizer.encode_pieces(part.prompt, bos=bos, eos=False)
        masked = common_prefix(asked, whole) if part.answer else len(whole)
        ids += whole
        labels += [IGNORE] * masked + whole[masked:]
        special = special or any(spelling in text for text in part for spelling in SPECIAL_SPELLINGS)
    cut = slice(0, row_length)
    return Sample(
        np.asarray(ids[cut], np.int32), np.asarray(labels[cut], np.int32), len(ids) > row_length, special, conversation.dropped_turn
    )


def common_prefix(short: list[int], long: list[int]) -> int:
    """How many first ids agree; all of `short` unless a token reaches over the border, which then is learned."""
    if long[: len(short)] == short:
        return len(short)
    return next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), min(len(short), len(long)))


def encode_paragraph(text: str, tokenizer: LlamaTokenizer) -> np.ndarray:
    """int32 ids of one wiki paragraph between beginning and end of sequence; `<unk>` in the text becomes id 0 as in MindFormers."""
    return np.asarray([tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], np.int32)


def encode_document(text: str, tokenizer: LlamaTokenizer, *, first: bool = True, last: bool = True) -> np.ndarray:
    """int32 ids of a document, or of one block of a long one; special spellings in it stay text.

    Args:
        text: plain text.
        tokenizer: ids.
        first: the block begins the document: the beginning-of-sequence id goes before it. A later block gets no implicit
            space, so a document cut at a line break has the same ids as the whole.
        last: the block ends the document: the end-of-sequence id goes behind it.
    """
    if first:
        return np.asarray(tokenizer.encode_pieces(text, bos=True, eos=last), np.int32)
    return np.asarray(tokenizer.encode_infilling(text) + [tokenizer.eos_token_id] * last, np.int32)
