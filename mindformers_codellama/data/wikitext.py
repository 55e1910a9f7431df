"""WikiText to paragraphs: the clean-up of MindFormers' `llama_preprocess.py`, applied to a file of any size.

MindFormers runs every substitution over the whole file. Here each one is a stage over a stream of text that holds back
only what a later piece could still change, so the result is the same and memory does not grow with the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

Stage = Callable[[Iterable[str]], Iterator[str]]

_PLAIN_FIRST = (
    ("s '", "s'"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    (" : ", ": "),
    (" ; ", "; "),
    (" . ", ". "),
    (" ! ", "! "),
    (" ? ", "? "),
    (" , ", ", "),
)
"""Contractions, number separators, punctuation, in this order; `_contraction_stage` comes after the first."""

_BRACKETS = ("()", "[]", "{}", '""', "''")
"""Pairs whose inner white space is stripped, in this order."""

_PLAIN_LAST = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \u00b0 ", "\u00b0"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)

_CONTRACTION = re.compile(r"/' [0-9]/")


def clean(pieces: Iterable[str]) -> Iterator[str]:
    """Cleaned text, in pieces; joined it equals MindFormers' clean-up of the joined input."""
    stages: list[Stage] = [partial(_replaced, old=old, new=new) for old, new in _PLAIN_FIRST]
    stages.insert(1, _contraction_stage)
    stages += [partial(_stripped_inside, opening=pair[0], closing=pair[1]) for pair in _BRACKETS]
    stages += [partial(_replaced, old=old, new=new) for old, new in _PLAIN_LAST]
    stream: Iterable[str] = pieces
    for stage in stages:
        stream = stage(stream)
    return iter(stream)


def paragraphs(pieces: Iterable[str]) -> Iterator[str]:
    """Paragraphs between blank lines, headings (first character that is not white space is `=`) left out.

    Empty paragraphs are left out; one of white space alone is kept, as in MindFormers.
    """
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n\n")
        yield from filter(_is_text, whole)
    yield from filter(_is_text, [rest])


def _is_text(paragraph: str) -> bool:
    return bool(paragraph) and not paragraph.strip().startswith("=")


def _replaced(pieces: Iterable[str], *, old: str, new: str) -> Iterator[str]:
    """`str.replace` over a stream: keeps back what could be the beginning of `old`."""
    rest = ""
    for piece in pieces:
        text = rest + piece
        found = text.rfind(old)
        # str.rfind may overlap an earlier match ("= = =" in "= = = = ="), so matches are counted from the left
        done = _end_of_last_match(text, old) if found >= 0 else 0
        hold = max(done, len(text) - len(old) + 1)
        yield text[:done].replace(old, new) + text[done:hold]
        rest = text[hold:]
    yield rest


def _end_of_last_match(text: str, old: str) -> int:
    done, found = 0, text.find(old)
    while found >= 0:
        done = found + len(old)
        found = text.find(old, done)
    return done


def _contraction_stage(pieces: Iterable[str]) -> Iterator[str]:
    """MindFormers' pattern is `/' D/` with a digit D between slashes, and its replacement is the literal text `/'[0-9]/`."""
    rest = ""
    for piece in pieces:
        text = rest + piece
        done = max((match.end() for match in _CONTRACTION.finditer(text)), default=0)
        hold = max(done, len(text) - 4)
        yield _CONTRACTION.sub("/'[0-9]/", text[:done]) + text[done:hold]
        rest = text[hold:]
    yield rest


def _stripped_inside(pieces: Iterable[str], *, opening: str, closing: str) -> Iterator[str]:
    """Strip white space inside each pair; an opening mark without a closing one is kept as it is."""
    rest = ""
    for piece in pieces:
        text = rest + piece
        search = len(rest)  # `rest` begins with an opening mark and holds no closing one
        out: list[str] = []
        at = 0
        while (start := text.find(opening, at)) >= 0:
            end = text.find(closing, max(start + 1, search))
            if end < 0:
                break
            out += (text[at : start + 1], text[start + 1 : end].strip(), closing)
            at = end + 1
        if start < 0:
            out.append(text[at:])
            rest = ""
        else:
            out.append(text[at:start])
            rest = text[start:]
        yield "".join(out)
    yield rest
