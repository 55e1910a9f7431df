"""A light reading of source code: open brackets, strings and comments, in most languages.

It knows one- and three-quoted strings, backslashes in them, and comments to the end of a line. It does not know block comments,
regular expressions or here-documents; brackets in those are counted. An unclosed one-line string ends with its line.
"""

from __future__ import annotations

OPENERS = "([{"
CLOSERS = ")]}"
TRIPLE = ('"""', "'''")


class BracketReader:
    """Reads code piece by piece.

    Args:
        comment: what begins a comment to the end of the line.

    Attributes:
        depth: brackets opened in what was read and not closed.
        unmatched: brackets closed in what was read that were not opened in it.
    """

    def __init__(self, comment: str = "#") -> None:
        self._comment = comment
        self._quote = ""
        self._in_comment = False
        self._skip = 0
        """Characters of a mark already understood."""
        self.depth = 0
        self.unmatched = 0

    @property
    def in_text(self) -> bool:
        """Whether the last character was inside a string or a comment."""
        return bool(self._quote) or self._in_comment

    def waits(self, text: str, at: int) -> bool:
        """Whether the character at `at` can only be understood with characters behind the end of `text`."""
        rest = text[at : at + 3]
        marks = (*TRIPLE, self._comment)
        return len(text) - at < 3 and any(mark != rest and mark.startswith(rest) for mark in marks)

    def read(self, text: str, at: int) -> str:
        """Take the character at `at`; `text` is all there is, so that marks of several characters can be seen.

        Returns:
            `open`, `close`, `unmatched` (a bracket closed that was not opened here), or nothing.
        """
        char = text[at]
        if self._skip:
            self._skip -= 1
        elif self._in_comment:
            self._in_comment = char != "\n"
        elif self._quote:
            self._read_string(text, at)
        elif text.startswith(self._comment, at):
            self._in_comment = True
        elif char in "\"'`":
            self._quote = text[at : at + 3] if text[at : at + 3] in TRIPLE else char
            self._skip = len(self._quote) - 1
        elif char in OPENERS:
            self.depth += 1
            return "open"
        elif char in CLOSERS:
            if not self.depth:
                self.unmatched += 1
                return "unmatched"
            self.depth -= 1
            return "close"
        return ""

    def _read_string(self, text: str, at: int) -> None:
        if text[at] == "\\":
            self._skip = 1
        elif text.startswith(self._quote, at):
            self._skip = len(self._quote) - 1
            self._quote = ""
        elif text[at] == "\n" and len(self._quote) == 1 and self._quote != "`":
            self._quote = ""

    def read_all(self, text: str) -> BracketReader:
        """Take a whole text; gives itself."""
        for at in range(len(text)):
            self.read(text, at)
        return self
