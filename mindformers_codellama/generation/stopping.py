"""When a row ends: end tokens, length, and stop strings that may span tokens.

The first stop string to be complete ends the row; of several complete at once, the one that begins first.
Text is certain only when no later token can change it: whole characters (`text.stream`), and no beginning of
a stop string at its end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from mindformers_codellama.text.stream import TokenStream
from mindformers_codellama.text.tokenizer import LlamaTokenizer


def held_back(text: str, stop_strings: Sequence[str]) -> int:
    """Characters at the end of `text` that may be the beginning of a stop string."""
    longest = max((len(stop) for stop in stop_strings), default=0)
    for size in range(min(len(text), longest - 1), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stop_strings):
            return size
    return 0


def find_stop(text: str, stop_strings: Sequence[str], start: int = 0) -> int:
    """Where the earliest stop string begins at or after `start`; -1 when there is none."""
    found = [place for stop in stop_strings if (place := text.find(stop, start)) >= 0]
    return min(found, default=-1)


@dataclass
class RowText:
    """The new text of one row as its tokens arrive."""

    stream: TokenStream
    """Primed with the prompt, so that the first new token keeps its leading space."""
    stop_strings: tuple[str, ...]
    text: str = ""
    """All whole characters so far; cut at the stop string once there is one."""
    shown: int = 0
    """Characters of `text` given out."""
    stopped: bool = False
    ends: list[int] = field(default_factory=list)
    """Length of `text` after each token."""

    @classmethod
    def after(cls, tokenizer: LlamaTokenizer, prompt: Sequence[int], stop_strings: tuple[str, ...]) -> RowText:
        """The text that follows `prompt`."""
        stream = TokenStream(tokenizer)
        for token in prompt:
            stream.put(token)
        return cls(stream, stop_strings)

    def put(self, token: int) -> str:
        """Take one token; give the text that became certain. Sets `stopped` at a stop string."""
        return self._add(self.stream.put(token), last=False)

    def end(self) -> str:
        """Give what was held back: no more tokens will come."""
        return "" if self.stopped else self._add(self.stream.end(), last=True)

    def _add(self, piece: str, *, last: bool) -> str:
        self.text += piece
        # Nothing before `shown` can begin a stop string: it would have been held back.
        place = find_stop(self.text, self.stop_strings, self.shown)
        if not last:
            self.ends.append(len(self.text))
        if place >= 0:
            self.stopped = True
            self.text = self.text[:place]
        certain = len(self.text) if last or self.stopped else len(self.text) - held_back(self.text, self.stop_strings)
        piece = self.text[self.shown : certain]
        self.shown = certain
        return piece

    def kept_tokens(self) -> int:
        """Tokens whose text lies wholly before the stop string; all of them when there is none."""
        return self._tokens_within(len(self.text)) if self.stopped else len(self.ends)

    def certain_tokens(self) -> int:
        """Tokens whose text has been given out wholly, so that a listener of ids may have them."""
        return self._tokens_within(self.shown)

    def _tokens_within(self, length: int) -> int:
        count = bisect_right(self.ends, length)
        # A last token that added nothing may be half of a character that is not within.
        while count and self.ends[count - 1] == (self.ends[count - 2] if count > 1 else 0):
            count -= 1
        return count
