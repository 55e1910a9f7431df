"""`TokenStream`: ids in, text out as soon as it is certain, never half a character."""

from __future__ import annotations

from mindformers_codellama.text.join import SPACE_PIECE, join_run
from mindformers_codellama.text.tokenizer import LlamaTokenizer

ANCHOR = "x"
"""Decoded before a piece so that SentencePiece does not take it for the start of the text."""
LONGEST_CHARACTER = 4
"""Bytes of UTF-8."""
REPLACEMENT = "\ufffd"


def whole_characters(data: bytes) -> tuple[str, int]:
    """Text of the bytes that can no longer change, and how many they are.

    A byte that begins no character becomes one U+FFFD, as in SentencePiece; a tail that may still become a character is left.
    """
    text, at = "", 0
    while at < len(data):
        for length in range(1, LONGEST_CHARACTER + 1):
            piece = data[at : at + length]
            try:
                text += piece.decode()
            except UnicodeDecodeError as error:
                if error.reason != "unexpected end of data":
                    text, at = text + REPLACEMENT, at + 1
                    break
                if at + length >= len(data):
                    return text, at
            else:
                at += length
                break
    return text, at


class TokenStream:
    """Turns ids into text one by one: all texts of `put` and `end` together are `tokenizer.decode(all ids)`.

    A byte piece waits until its character is whole; bytes that never become one give U+FFFD when that is certain.

    Args:
        tokenizer: of the ids.
        skip_special_tokens: as in `decode`. With False and a legacy tokenizer, text waits for the next special token or the
            end: only then is it known whether `decode` writes a space before it.

    Feed the prompt first when the text of an answer must join it exactly: the first piece of a stream loses its space.
    """

    def __init__(self, tokenizer: LlamaTokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._rules = tokenizer.join_rules()
        self._skipped = tokenizer.added_tokens.special_ids if skip_special_tokens else frozenset()
        self._waits = self._rules.legacy and not skip_special_tokens
        self._parts_before = False
        self._start_run()

    def _start_run(self) -> None:
        """State of a run of tokens between two split-off ones."""
        self._count = 0
        self._run: list[str] = []
        self._written = 0
        self._head: list[str] | None = []
        self._bytes = bytearray()
        self._run_has_text = False
        self._after_special = False

    def put(self, token_id: int) -> str:
        """Text that became certain with this id; often empty.

        Raises:
            TokenizerError: an id outside the vocabulary.
        """
        token_id = int(token_id)
        if token_id in self._skipped:
            return ""
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token in self._rules.split_off:
            text = self._separated(self._finish_run()) + (" " if self._parts_before else "") + token
            self._start_run()
            self._parts_before = True
            return text
        return self._separated(self._wait(token) if self._waits else self._add(token))

    def end(self) -> str:
        """The rest; the stream is empty afterwards and may be used again."""
        had_tokens = self._count > 0
        text = self._separated(self._finish_run())
        if had_tokens and not self._run_has_text and self._parts_before:
            text = " "
        self._start_run()
        self._parts_before = False
        return text

    def _separated(self, text: str) -> str:
        """Put the space of split-off tokens before the first text of a run."""
        if not text or self._run_has_text:
            return text
        self._run_has_text = True
        separated = " " + text if self._parts_before else text
        self._parts_before = True
        return separated

    def _wait(self, token: str) -> str:
        """Legacy mode with visible special tokens: certain at the next special token."""
        self._run.append(token)
        self._count += 1
        return self._new_text() if token in self._rules.special else ""

    def _new_text(self) -> str:
        text = join_run(self._run, self._rules)
        new, self._written = text[self._written :], len(text)
        return new

    def _finish_run(self) -> str:
        if self._waits:
            return self._new_text() if self._run else ""
        # what is left begins no whole character: SentencePiece writes one U+FFFD for each byte
        text = REPLACEMENT * len(self._bytes)
        self._bytes.clear()
        if text:
            self._head = None
        return text

    def _add(self, token: str) -> str:
        """Text of one more token of the run."""
        first = self._count == 0
        self._count += 1
        if first and token.startswith(SPACE_PIECE) and self._rules.add_prefix_space:
            token = token[1:]
        if token in self._rules.special:
            text = self._finish_run() + token
            self._head, self._after_special = [], True
            return text
        text = ""
        if self._after_special and self._count == 2 and self._rules.add_prefix_space and not token.startswith(SPACE_PIECE):
            text = " "
        self._after_special = False
        if self._is_byte(token):
            self._bytes.append(int(token[3:5], 16))
            whole, used = whole_characters(bytes(self._bytes))
            del self._bytes[:used]
            if whole:
                self._head = None
            return text + whole
        text += self._finish_run()
        return text + self._decode_piece(token)

    def _is_byte(self, token: str) -> bool:
        processor = self._rules.processor
        return bool(processor.is_byte(processor.piece_to_id(token)))

    def _decode_piece(self, token: str) -> str:
        """Text of a piece that is no byte. At the start of a text SentencePiece may drop its space, so all pieces so far are decoded."""
        processor = self._rules.processor
        if self._head is None:
            return str(processor.decode([ANCHOR, token]))[len(ANCHOR) :]
        self._head.append(token)
        text = str(processor.decode(self._head))
        if text:
            self._head = None
        return text


def without_cut_character(text: str, finish_reason: str) -> str:
    """A middle without the bytes of a character that the longest answer cut in two: a file shall not get marks of what is missing."""
    return text.rstrip(REPLACEMENT) if finish_reason == "length" else text
