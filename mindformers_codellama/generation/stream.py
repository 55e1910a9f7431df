"""Streamers: listeners that turn token ids into text as they come, as transformers and MindFormers name them."""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mindformers_codellama.errors import GenerationError
from mindformers_codellama.text.stream import TokenStream
from mindformers_codellama.text.tokenizer import LlamaTokenizer


def write_and_flush(piece: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(piece)
    sys.stdout.flush()


class TextStreamer:
    """Writes the text of one row as soon as its characters are whole.

    MindFormers waits for a whole word; here a piece is written with the token that completes it.

    Args:
        tokenizer: the tokenizer of the ids.
        skip_prompt: do not write the prompt, the first thing `put` receives.
        write: takes each piece of text; standard output when not given; a line end comes last.
    """

    def __init__(self, tokenizer: LlamaTokenizer, skip_prompt: bool = False, *, write: Callable[[str], None] | None = None) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.write = write_and_flush if write is None else write
        self._stream: TokenStream | None = None

    def put(self, value: Any) -> None:
        """Take int or 1-D ids; the first call is the prompt.

        Raises:
            GenerationError: the ids of several rows.
        """
        ids = [value] if isinstance(value, (int, np.integer)) else list(value)
        if any(isinstance(row, (list, tuple, np.ndarray)) for row in ids):
            raise GenerationError("streamer", "TextStreamer writes one row, got a batch.", fix="pass on_text=..., which is told the row.")
        is_prompt = self._stream is None
        if self._stream is None:
            self._stream = TokenStream(self.tokenizer)
        piece = "".join([self._stream.put(int(token)) for token in ids])
        if piece and not (is_prompt and self.skip_prompt):
            self.write(piece)

    def end(self) -> None:
        """Write what was held back and a line end; ready for the next answer."""
        rest = "" if self._stream is None else self._stream.end()
        self._stream = None
        self.write(rest + "\n")


class TextIteratorStreamer(TextStreamer):
    """Gives the pieces of text to another thread: `for piece in streamer: ...`.

    Args:
        tokenizer: the tokenizer of the ids.
        skip_prompt: do not give the prompt.
        timeout: seconds to wait for a piece before `queue.Empty`; None waits for ever.
    """

    def __init__(self, tokenizer: LlamaTokenizer, skip_prompt: bool = False, *, timeout: float | None = None) -> None:
        self._pieces: queue.Queue[str | None] = queue.Queue()
        self.timeout = timeout
        super().__init__(tokenizer, skip_prompt, write=self._pieces.put)

    def end(self) -> None:
        """Give what was held back, then end the iteration."""
        rest = "" if self._stream is None else self._stream.end()
        self._stream = None
        if rest:
            self._pieces.put(rest)
        self._pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        while (piece := self._pieces.get(timeout=self.timeout)) is not None:
            yield piece
