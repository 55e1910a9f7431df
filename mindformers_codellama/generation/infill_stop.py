"""Where a middle ends when the model does not say so: at the end of its line, its block, or its brackets.

A trained model ends a middle with `<EOT>`. A small one, or one that has lost its way, goes on: it leaves the block the cursor is
in, or closes again what the suffix closes. These rules cut there. They look at the text alone and know no grammar, so they can cut
a middle that was meant to leave its block; `until="eot"` turns them off.
"""

from __future__ import annotations

from mindformers_codellama.errors import GenerationError
from mindformers_codellama.text.brackets import CLOSERS, BracketReader

UNTIL = ("eot", "line", "block")
TAB = 8


def infill_stop(prefix: str, suffix: str, *, until: str, comment: str = "#") -> InfillStop | None:
    """The stop rule of one middle; None for `eot`.

    Args:
        prefix: text before the cursor, with LF line ends.
        suffix: text behind it.
        until: `eot`: the model's own end alone; `block`: also where the indentation falls below that of the
            cursor's block, or a bracket closes that the suffix closes; `line`: also at the end of the first line with text.
        comment: what begins a comment to the end of the line.

    Raises:
        GenerationError: another word.
    """
    require_until(until)
    return None if until == "eot" else InfillStop(prefix, suffix, line=until == "line", comment=comment)


def require_until(until: str) -> None:
    """`GenerationError` for a word that is not in `UNTIL`."""
    if until not in UNTIL:
        raise GenerationError("until", f"got {until!r}.", fix=f"write one of {', '.join(UNTIL)}.")


class InfillStop:
    """A `StopRule` of one middle; remembers what it has read.

    Args:
        prefix, suffix, comment: as in `infill_stop`.
        line: end at the first line end behind text, too.
    """

    def __init__(self, prefix: str, suffix: str, *, line: bool, comment: str = "#") -> None:
        self._line = line
        self._least = block_indent(prefix)
        outside = BracketReader(comment).read_all(prefix)
        self._may_close = max(0, outside.depth - BracketReader(comment).read_all(suffix).unmatched)
        self._joins_line_end = suffix.startswith("\n")
        self._reader = BracketReader(comment)
        if outside.in_text:
            self._reader = outside  # the middle goes on inside a string
            self._reader.depth = 0
        self._closed = self._reader.unmatched
        self._read = 0
        self._line_start = -1
        """Where the indentation of the present line begins; -1 once its text has begun, and in the cursor's own line."""
        self._open_at_start = False
        self._found = -1

    def end(self, text: str, start: int) -> int:
        """As `StopRule.end`. Characters that may be the beginning of a longer mark wait for the next ones."""
        while self._found < 0 and self._read < len(text) and not self._reader.waits(text, self._read):
            self._found = self._read_one(text, self._read, start)
            self._read += 1
        return self._found

    def held_back(self, text: str) -> int:
        """What was not read yet, and white space from its first line end on, which goes with a line that falls below the block."""
        return len(text) - _before_line_end(text, self._read)

    def _read_one(self, text: str, at: int, start: int) -> int:
        """Where the text ends because of the character at `at`, or -1."""
        char = text[at]
        kind = self._reader.read(text, at)
        if char == "\n":
            if self._line and text[:at].strip():
                return max(start, at)
            self._line_start, self._open_at_start = at + 1, self._reader.depth > 0 or self._reader.in_text
        elif self._line_start >= 0 and not char.isspace():
            begins, self._line_start = self._line_start, -1
            below = indent_width(text[begins:at]) < self._least
            if below and not self._open_at_start and char not in CLOSERS:
                return self._cut(text, begins, start, lines=True)
        if kind == "unmatched" and self._reader.unmatched - self._closed > self._may_close:
            return self._cut(text, at, start, lines=False)
        return -1

    def _cut(self, text: str, at: int, start: int, *, lines: bool) -> int:
        """The end before `at`. A line end before it goes too when the suffix brings its own; of empty `lines` one end stays."""
        place = _before_line_end(text, at)
        if place < at and not self._joins_line_end:
            place = place + 1 if lines else at
        return max(start, place)


def _before_line_end(text: str, at: int) -> int:
    """Where the white space that ends at `at` begins with a line end; `at` when it holds none."""
    space = len(text[:at].rstrip())
    place = text.find("\n", space, at)
    return at if place < 0 else place


def indent_width(space: str) -> int:
    """Columns of leading white space; a tab goes to the next multiple of 8."""
    width = 0
    for char in space:
        width = (width // TAB + 1) * TAB if char == "\t" else width + 1
    return width


def block_indent(prefix: str) -> int:
    """Least indentation of the lines of the block the cursor is in; 0 when nothing can be said.

    Behind a line that opens a block with `:` it is deeper than that line; in a line of white space it is the cursor's column;
    else the line's own.
    """
    lines = prefix.split("\n")
    line = lines[-1]
    if line and not line.strip():
        return indent_width(line)
    if not line:
        line = next((before for before in reversed(lines) if before.strip()), "")
        if not line.rstrip().endswith(":"):
            return 0
    indent = indent_width(line[: len(line) - len(line.lstrip())])
    return indent + line.rstrip().endswith(":")
