"""Where something is to be filled in: a place in a file, or marks in a text."""

from __future__ import annotations

import re
from typing import NamedTuple

from mindformers_codellama.errors import ConfigError

FILL_MARK = "<FILL>"
PLACE = re.compile(r"(?P<path>.+?):(?P<line>\d+)(:(?P<column>\d+))?", re.DOTALL)


class Hole(NamedTuple):
    """A cursor in a text."""

    prefix: str
    suffix: str

    @property
    def line_end(self) -> str:
        r"""`\r\n` when most lines of the text end so, else `\n`."""
        pairs = self.prefix.count("\r\n") + self.suffix.count("\r\n")
        return "\r\n" if 2 * pairs > self.prefix.count("\n") + self.suffix.count("\n") else "\n"

    def with_line_ends(self, middle: str) -> str:
        """A middle with the line ends of the text around it."""
        return middle.replace("\r\n", "\n").replace("\n", self.line_end)

    def filled(self, middle: str) -> str:
        """The text with `middle` at the cursor, before a line end the cursor is inside of; nothing else is changed."""
        inside = self.prefix.endswith("\r") and self.suffix.startswith("\n")
        return f"{self.prefix[:-1]}{middle}\r{self.suffix}" if inside else self.prefix + middle + self.suffix


class Place(NamedTuple):
    """A cursor in a file, counted as compilers and editors do."""

    path: str
    line: int
    """From 1."""
    column: int | None
    """From 1, in characters; 1 is before the first character of the line, None behind the last one."""

    def __str__(self) -> str:
        return ":".join(str(part) for part in self if part is not None)


def parse_place(words: str) -> Place | None:
    """`FILE:LINE:COL`, or `FILE:LINE` for the end of the line, as a place; None when it is none."""
    match = PLACE.fullmatch(words)
    return Place(match["path"], int(match["line"]), int(match["column"]) if match["column"] else None) if match else None


def hole_at(text: str, place: Place) -> Hole:
    """The cursor at a place. Line ends are LF or CR LF; the column behind the last character is the end of its line.

    Raises:
        ConfigError: the text has no such line or column; says how many there are.
    """
    lines = text.split("\n")
    where = str(place)
    if not 1 <= place.line <= len(lines):
        raise ConfigError(where, f"there is no line {place.line}.", fix=f"write a line from 1 to {len(lines)}.")
    line = lines[place.line - 1]
    last = len(line.removesuffix("\r") if place.line < len(lines) else line) + 1
    column = last if place.column is None else place.column
    if not 1 <= column <= last:
        fix = f"write a column from 1 to {last}; 1 is before the first character."
        raise ConfigError(where, f"line {place.line} has no column {column}.", fix=fix)
    start = sum(map(len, lines[: place.line - 1])) + place.line - 1 + column - 1
    return Hole(text[:start], text[start:])


def split_marks(text: str, mark: str = FILL_MARK) -> list[str]:
    """The parts of a text between its marks, at least two.

    Raises:
        ConfigError: an empty mark, or none in the text.
    """
    if not isinstance(mark, str) or not mark:
        raise ConfigError("mark", "is empty." if mark == "" else f"must be a text, got {mark!r}.", fix=f"write a text such as {FILL_MARK}.")
    parts = text.split(mark)
    if len(parts) < 2:
        raise ConfigError("text", f"has no mark {mark}.", fix="put the mark where something is to be filled in.")
    return parts
