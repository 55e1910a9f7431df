"""MindSpore's own remarks, of which each rank writes dozens while it joins: they belong into logs, not on a person's screen."""

from __future__ import annotations

import re

_HEAD = rb"\[(?:INFO|WARNING)\] [A-Z_]+\(\d+,[0-9a-f]+,[^)\r\n]*\):"
"""`[WARNING] ME(19759,7f7425dc3b80,python3):`, with which each of them begins; errors begin with another word and stay."""
_REMARK = re.compile(_HEAD + rb"[^\n]*\n")
_UNFINISHED = re.compile(_HEAD + rb"[^\n]*\Z")
_STARTS = (b"[INFO] ", b"[WARNING] ")
_LONGEST = 4096
"""Bytes of a line that is held back to see whether it is one."""


class RemarkFilter:
    """Takes remarks out of a stream of bytes; all else passes unchanged and at once."""

    def __init__(self) -> None:
        self._held = b""

    @property
    def holds(self) -> bool:
        """Whether something waits for its line to end."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """What may be shown now."""
        data = _REMARK.sub(b"", self._held + data)
        start = _possible_start(data)
        self._held = data[start:]
        return data[:start]

    def end(self) -> bytes:
        """What was held back and is no remark: nothing more comes, or not soon."""
        held, self._held = self._held, b""
        return _UNFINISHED.sub(b"", held)


def _possible_start(data: bytes) -> int:
    """Where a remark may begin whose line has not ended."""
    line = data.rfind(b"\n") + 1
    for start in _STARTS:
        found = data.find(start, line)
        if found >= 0 and len(data) - found <= _LONGEST:
            return found
        for length in range(len(start) - 1, 0, -1):
            if data.endswith(start[:length]):
                return len(data) - length
    return len(data)


def is_remark(line: str) -> bool:
    """Whether a line of a log is one."""
    return re.match(_HEAD, line.encode()) is not None
