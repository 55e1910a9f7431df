"""One JSON array element at a time, so a file of any size needs the memory of its largest record."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

CHUNK = 1 << 20
"""Characters read at once; the largest record must fit in memory, the file need not."""

_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|["{}\[\],]', re.DOTALL)
"""A whole string, an opening quote whose string is not complete yet, or punctuation."""

_SPACE = re.compile(r"\s*")


class JsonElement(NamedTuple):
    """One element of the array, or the reason it cannot be read."""

    line: int
    """Line of its first character, counted from 1."""
    value: Any
    """The parsed element; None when `problem` says why not."""
    problem: str
    """Empty, or what is wrong with the text of this element."""


class _Scanner:
    """Window over a text file that cuts out the text between the commas of the outermost array."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text = ""
        self.at = 0
        self.line = 1

    def more(self) -> bool:
        """Forget what was taken and append one chunk; False at the end of the file."""
        chunk = self.file.read(CHUNK)
        self.text = self.text[self.at :] + chunk
        self.at = 0
        return bool(chunk)

    def take(self, end: int) -> str:
        """Move to offset `end` of the window and return what was passed, keeping the line count."""
        taken = self.text[self.at : end]
        self.at = end
        self.line += taken.count("\n")
        return taken

    def skip_space(self) -> bool:
        """Pass white space, reading on when the window runs out; False at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None, "the pattern matches nothing, too"
            self.take(match.end())
            if self.at < len(self.text):
                return True
            if not self.more():
                return False

    def element(self) -> tuple[str, str]:
        """Text up to the `,` or `]` that ends this element, and that mark ("" when the file ends first)."""
        depth, start = 0, self.at
        while True:
            for mark in _MARKS.finditer(self.text, start):
                found = mark.group()
                if found == '"':  # the string ends in a later chunk: look at it again from its quote
                    start = mark.start()
                    break
                start = mark.end()
                if found in "{[":
                    depth += 1
                elif depth and found in "}]":
                    depth -= 1
                elif not depth and found in ",]":
                    taken = self.take(mark.start())
                    self.take(mark.end())
                    return taken, found
            start -= self.at
            if not self.more():
                return self.take(len(self.text)), ""


def read_array(file: TextIO) -> Iterator[JsonElement]:
    """Yield the elements of the one JSON array in `file`, in order.

    Args:
        file: text positioned before the `[`; a caller has seen that it begins with one.

    Yields:
        JsonElement; a damaged element carries its reason and reading goes on after the next comma of the outer array.
        A file that ends early or goes on after `]` yields one last element with that reason.
    """
    scan = _Scanner(file)
    scan.skip_space()
    assert scan.text[scan.at] == "[", "read_array needs a JSON array"
    scan.take(scan.at + 1)
    end, first = "", True
    while end != "]":
        scan.skip_space()
        line = scan.line
        text, end = scan.element()
        if first and end == "]" and not text.strip():
            break
        first = False
        if not end:
            yield JsonElement(line, None, "the file ends before the array is closed with ]; it is cut short or damaged.")
            return
        yield _parsed(line, text)
    if scan.skip_space():
        yield JsonElement(scan.line, None, "there is text after the end of the array.")


def _parsed(line: int, text: str) -> JsonElement:
    """Parse the text of one element; `strict=False` as control characters inside strings are common in code data."""
    try:
        return JsonElement(line, json.loads(text, strict=False), "")
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        return JsonElement(line, None, f"not JSON: {error.msg} (line {at}, column {error.colno}).")
    except RecursionError:
        return JsonElement(line, None, "not readable: it is nested too deeply.")
