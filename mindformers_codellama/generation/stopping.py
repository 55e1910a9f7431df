"""When a row ends: end tokens, length, and stop strings that may span tokens.

The first stop string to be complete ends the row; of several complete at once, the one that begins first.
Text is certain only when no later token can change it: whole characters (`text.stream`), and no beginning of
a stop string at its end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from mindformers_codellama.generation.protocol import StopRule
from mindformers_codellama.text.stream import TokenStream
from mindformers_codellama.text.tokenizer import INFILLING_MARK, LlamaTokenizer


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


@dataclass(frozen=True)
class StopStrings:
    """The stop rule of `stop_strings`."""

    strings: tuple[str, ...]

    def end(self, text: str, start: int) -> int:
        """Where the earliest stop string begins."""
        return find_stop(text, self.strings, start)

    def held_back(self, text: str) -> int:
        """Characters that may begin a stop string."""
        return held_back(text, self.strings)


@dataclass(frozen=True)
class FirstOf:
    """Several stop rules: the earliest end."""

    rules: tuple[StopRule, ...]

    def end(self, text: str, start: int) -> int:
        """The earliest end of any rule; every rule sees every text."""
        found = [place for rule in self.rules if (place := rule.end(text, start)) >= 0]
        return min(found, default=-1)

    def held_back(self, text: str) -> int:
        """What any rule holds back."""
        return max((rule.held_back(text) for rule in self.rules), default=0)


@dataclass(frozen=True, kw_only=True)
class AnswerRule:
    """What one answer is, beside the options of the request. The plain one continues its prompt."""

    begins: str = ""
    """Text the answer has to begin with; it is not part of the text that is given (token healing)."""
    stop: StopRule | None = None
    """Ends the answer by its text."""
    apart: bool = False
    """The text stands by itself, as `decode_infilling` reads it, instead of continuing the text of the prompt."""


PLAIN = AnswerRule()


@dataclass
class RowText:
    """The new text of one row as its tokens arrive."""

    stream: TokenStream
    """Primed with the prompt, so that the first new token keeps its leading space."""
    rule: StopRule
    skip: int = 0
    """Characters still to be left out at the beginning."""
    text: str = ""
    """All whole characters so far; cut at the stop string once there is one."""
    shown: int = 0
    """Characters of `text` given out."""
    stopped: bool = False
    ends: list[int] = field(default_factory=list)
    """Length of `text` after each token."""

    @classmethod
    def after(cls, tokenizer: LlamaTokenizer, prompt: Sequence[int], stop_strings: tuple[str, ...], answer: AnswerRule = PLAIN) -> RowText:
        """The text that follows `prompt`."""
        stream = TokenStream(tokenizer)
        for token in tokenizer.encode_pieces(INFILLING_MARK, bos=False, eos=False) if answer.apart else prompt:
            stream.put(token)
        strings = StopStrings(stop_strings)
        return cls(stream, strings if answer.stop is None else FirstOf((strings, answer.stop)), skip=len(answer.begins))

    def put(self, token: int) -> str:
        """Take one token; give the text that became certain. Sets `stopped` at a stop string."""
        return self._add(self.stream.put(token), last=False)

    def end(self) -> str:
        """Give what was held back: no more tokens will come."""
        return "" if self.stopped else self._add(self.stream.end(), last=True)

    def _add(self, piece: str, *, last: bool) -> str:
        skipped = min(self.skip, len(piece))
        self.skip -= skipped
        self.text += piece[skipped:]
        # Nothing before `shown` can begin a stop string: it would have been held back.
        place = self.rule.end(self.text, self.shown)
        if not last:
            self.ends.append(len(self.text))
        if place >= 0:
            self.stopped = True
            self.text = self.text[:place]
        certain = len(self.text) if last or self.stopped else max(self.shown, len(self.text) - self.rule.held_back(self.text))
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
