"""Documents to infilling tasks, the transform Code Llama's 7B, 13B and 70B were trained with.

A document is cut at two random characters into prefix, middle and suffix, and written in one of two orders:

- prefix, suffix, middle (PSM): `<s> <PRE> prefix <SUF> suffix <MID> middle <EOT>`
- suffix, prefix, middle (SPM): `<s> <PRE> <SUF> suffix <MID> prefix+middle <EOT>`

What stands before the middle is the prompt of `text.infilling`, from the same functions. In SPM prefix and middle are encoded
as one text, so that no token of them is cut; in PSM each part by itself. Sources: arXiv 2207.14255 (section 3 and appendix D);
arXiv 2308.12950 section 2.3: nine of ten documents, half of them in each order, only documents that lie in one context.

On request a share of the middles lies in one line, as what an editor asks for does; the paper's cuts leave few of those, and a
small model sees too few to learn where such a middle ends.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mindformers_codellama.data.encode import IGNORE, common_prefix, encode_document
from mindformers_codellama.data.packing import Piece
from mindformers_codellama.data.text_source import Block
from mindformers_codellama.errors import DataError, raise_all
from mindformers_codellama.text.infilling import infilling_pieces, join_parts, prefix_ids, suffix_ids
from mindformers_codellama.text.infilling_fit import keep_head
from mindformers_codellama.text.tokenizer import LlamaTokenizer

LOSSES = ("all", "middle")
LEAST_LENGTH = 32
"""Smallest seq_length: the frame, and a few characters in pieces of one byte."""
FRAME = 6
"""Ids around the parts: begin, three marks, end, and an implicit space that stays a piece of its own."""
_WIDTHS = (4, 8, 16)
"""Characters per id that are looked at when a document is cut; more only where fewer do not fill the room."""


@dataclass(frozen=True, kw_only=True)
class FimOptions:
    """How documents become infilling tasks; checked at birth."""

    rate: float = 0.9
    """Share of the documents that are transformed, in [0, 1]; the paper's 0.9."""
    spm_rate: float = 0.5
    """Share of these that are in the order SPM, in [0, 1]; the paper's 0.5."""
    line_rate: float = 0.0
    """Share of these whose middle lies in one line, in [0, 1]: half of them begin where the line does, half end where it
    does. The paper's 0."""
    seed: int = 0
    """Of all random choices, at least 0."""
    part_from: float = 0.1
    """Shortest part of a document that is longer than a row, as a share of a row, in (0, 1]. Parts get random lengths from it to a whole
    row: in parts that fill their rows the end of a middle always stands at the row's end, and a model learns the place."""
    loss: str = "all"
    """all: every id is learned, as Bavarian et al. do; middle: of a transformed document the middle and its end alone."""

    def __post_init__(self) -> None:
        shares = (("--fim-rate", self.rate), ("--fim-spm-rate", self.spm_rate), ("--fim-line-rate", self.line_rate))
        found = [DataError(name, f"got {value:g}, must be from 0 to 1.") for name, value in shares if not 0 <= value <= 1]
        if not 0 < self.part_from <= 1:
            found.append(DataError("--fim-part-from", f"got {self.part_from:g}, must be above 0 and at most 1."))
        if self.seed < 0:
            found.append(DataError("--fim-seed", f"got {self.seed}, must be at least 0."))
        if self.loss not in LOSSES:
            found.append(DataError("--fim-loss", f"got {self.loss!r}.", fix=f"write one of {', '.join(LOSSES)}."))
        raise_all(found)


class Draw(NamedTuple):
    """The random choices of one document, made before its length is known."""

    infill: bool
    """Transform it."""
    suffix_first: bool
    """In the order SPM."""
    places: tuple[float, float]
    """The two cuts as fractions in [0, 1), in any order."""
    length: float
    """Of a part of a document that is longer than a row, as a share of a row."""
    line: float | None = None
    """The line the middle lies in, as a fraction of the lines that are not blank; None: cut anywhere."""

    def split(self, text: str) -> tuple[str, str, str]:
        """Prefix, middle and suffix; each of the `len(text) + 1` places between characters is equally likely, ends included."""
        first, length, (one, other) = 0, len(text), self.places
        if self.line is not None and (spans := [match.span() for match in re.finditer(r"[^\n]*\S[^\n]*", text)]):
            first, last = spans[int(self.line * len(spans))]
            length, one, other = last - first, max(0.0, 2 * one - 1), min(2 * other, 1 - sys.float_info.epsilon)
        start, end = sorted(first + int(place * (length + 1)) for place in (one, other))
        return text[:start], text[start:end], text[end:]


class FimSample(NamedTuple):
    """One document, or one part of a long one."""

    piece: Piece
    """Ids from the beginning-of-sequence id on, with their labels; at most a row."""
    order: str
    """psm, spm, or plain when it was left as it is."""


def draw(chance: np.random.Generator, options: FimOptions) -> Draw:
    """The choices for the next document; always as many numbers, so a rate moves no cut of a document that fits a row."""
    infill, order, one, other, length = (float(number) for number in chance.random(5))
    line = None
    if options.line_rate:  # two numbers more, so that rows without such middles are what they were before there were any
        within, which = (float(number) for number in chance.random(2))
        line = which if within < options.line_rate else None
    share = options.part_from + (1 - options.part_from) * length
    return Draw(infill < options.rate, order < options.spm_rate, (one, other), share, line)


def task_ids(tokenizer: LlamaTokenizer, prefix: str, middle: str, suffix: str, *, suffix_first: bool) -> tuple[list[int], int]:
    """Ids of one infilling task, and how many of them stand before the middle.

    In PSM those before the middle are `infilling_prompt_ids(prefix, suffix)`. In SPM they are that prompt too where no token
    lies across the cursor; a token that does counts to the middle. An SPM middle without a prefix is encoded as a middle,
    without SentencePiece's implicit space: its answer is read as one.

    Args:
        tokenizer: with infilling pieces.
        prefix: LF line ends.
        middle: likewise.
        suffix: likewise. Each may be empty.
        suffix_first: the order SPM.

    Raises:
        GenerationError: the tokenizer has no infilling pieces.
        TokenizerError: a part is not text.
    """
    end = infilling_pieces(tokenizer).end
    before, behind = prefix_ids(tokenizer, prefix), suffix_ids(tokenizer, suffix)
    if not suffix_first or not prefix:
        prompt = join_parts(tokenizer, before, behind, suffix_first=suffix_first)
        return [*prompt, *suffix_ids(tokenizer, middle), end], len(prompt)
    joined = prefix_ids(tokenizer, prefix + middle)
    ids = join_parts(tokenizer, joined, behind, suffix_first=True)
    return [*ids, end], len(ids) - len(joined) + common_prefix(before, joined)


def fim_samples(block: Block, number: int, tokenizer: LlamaTokenizer, options: FimOptions, row_length: int) -> Iterator[FimSample]:
    """Samples of one document, each at most `row_length` ids.

    A document that is longer is cut first, at line breaks and into parts of random length, and every part is a document of its
    own: with its beginning, its cuts and its middle in one row. (Cut afterwards, a prefix would lie in one row and its middle
    in another.) A part that is left as it is has an end of sequence only where the document ends.

    Args:
        block: a document or a block of one.
        number: of the block, counted over all inputs and repeats; with the seed it gives all random choices.
        tokenizer: with infilling pieces.
        options: what is asked for.
        row_length: seq_length + 1.

    Raises:
        TokenizerError: the block is not text.
    """
    chance = np.random.default_rng((options.seed, number))
    rest = block.text.replace("\r\n", "\n")
    while rest:
        choices = draw(chance, options)
        room = row_length - FRAME
        while True:
            part = _part(tokenizer, rest, choices.length, room) or rest[0]
            sample = _sample(tokenizer, part, choices, options.loss, last=block.last and len(part) == len(rest))
            excess = len(sample.piece.ids) - row_length  # a token cut in two can become more than two
            if excess <= 0:
                break
            room -= excess
        yield sample
        rest = rest[len(part) :]


def _sample(tokenizer: LlamaTokenizer, text: str, choices: Draw, loss: str, *, last: bool) -> FimSample:
    if not choices.infill:
        ids = encode_document(text, tokenizer, last=last)
        return FimSample(Piece(ids, ids.copy()), "plain")
    prefix, middle, suffix = choices.split(text)
    listed, masked = task_ids(tokenizer, prefix, middle, suffix, suffix_first=choices.suffix_first)
    ids = np.asarray(listed, np.int32)
    labels = ids.copy()
    if loss == "middle":
        labels[:masked] = IGNORE
    return FimSample(Piece(ids, labels), "spm" if choices.suffix_first else "psm")


def _part(tokenizer: LlamaTokenizer, text: str, share: float, room: int) -> str:
    """The beginning of `text`: all of it in at most `room` ids, else the whole lines in a share of them, or one line.

    Empty when nothing fits.
    """
    most = _head(tokenizer, text, room)
    if len(most) == len(text):
        return most
    part = _head(tokenizer, text, max(1, round(share * room)))
    return part[: part.rfind("\n") + 1] or most[: most.find("\n") + 1] or most


def _head(tokenizer: LlamaTokenizer, text: str, room: int) -> str:
    """The beginning of `text` in at most `room` ids, in whole lines where that costs little; empty when nothing fits."""
    head = ""
    for width in _WIDTHS:
        window = text[: max(room, 0) * width]
        head = keep_head(tokenizer, window, room)
        if len(head) < len(window) or len(window) == len(text):
            break
    return head
