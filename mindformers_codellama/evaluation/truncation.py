"""Where a completion ends: behind the function it was asked for.

The body of the function ends before the first line that begins at the margin, outside strings and brackets; that is Codex's rule
(stop at a new `def`, `class`, `if`, `print` or comment at the margin, arXiv 2107.03374) for any text at the margin. A model that
writes the whole function again, its head included, is read to the end of that one.
"""

from __future__ import annotations

import re

from mindformers_codellama.text.brackets import CLOSERS, BracketReader

INDENTED = re.compile(r"^[ \t]+\S", re.MULTILINE)


class FunctionEnd:
    """A `StopRule` of one completion; remembers what it has read.

    Args:
        prompt: text the completion follows.
        entry_point: name of the function.
    """

    def __init__(self, prompt: str, entry_point: str) -> None:
        self._head = re.compile(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(entry_point)}\b", re.MULTILINE)
        self._reader = BracketReader().read_all(prompt)
        self._margin = prompt.endswith("\n")
        """Whether a line begins at the present character, outside strings and brackets."""
        self._body_only = not self._margin
        """The completion began inside the body: the next text at the margin ends it."""
        self._restates = False
        """It began at the margin: the function is written again, and ends behind its own head."""
        self._read = 0
        self._found = -1

    def end(self, text: str, start: int) -> int:
        """As `StopRule.end`."""
        while self._found < 0 and self._read < len(text) and not self._reader.waits(text, self._read):
            at = self._read
            char = text[at]
            if self._margin and not char.isspace() and char not in CLOSERS and self._ends_at(text, at):
                self._found = max(start, len(text[:at].rstrip()))
                break
            self._reader.read(text, at)
            free = not self._reader.in_text and not self._reader.depth
            self._margin = char == "\n" and free
            self._read += 1
        return self._found

    def _ends_at(self, text: str, at: int) -> bool:
        """Whether the function ended before this line at the margin."""
        if self._restates:
            return self._head.search(text, 0, at) is not None
        self._body_only = self._body_only or INDENTED.search(text, 0, at) is not None
        self._restates = not self._body_only and text[at] != "#"
        return self._body_only

    def held_back(self, text: str) -> int:
        """What was not read yet, and the white space before it."""
        return len(text) - len(text[: self._read].rstrip())


def truncated(prompt: str, completion: str, entry_point: str) -> str:
    """The completion up to the end of the function, without white space behind it, with one line end."""
    place = FunctionEnd(prompt, entry_point).end(completion, 0)
    return completion if place < 0 else completion[:place] + "\n"
