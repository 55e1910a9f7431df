"""Make an infilling prompt fit: keep what is nearest the cursor, in whole lines where that costs little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mindformers_codellama.text.infilling import prefix_ids, suffix_ids
from mindformers_codellama.text.tokenizer import LlamaTokenizer

PREFIX_SHARE = 0.75
"""Of the room, for the prefix when neither part fits whole; llama.cpp's editors use the same."""
CONTEXT_SHARE = 0.25
"""Of the room, for other files when the file itself does not leave that much."""
LONGEST_PIECE = 16
"""Characters of the longest piece in Llama's files; text farther from the cursor than this times the room is not even encoded."""
COMMENTS = {
    "//": (
        *(".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh", ".cs", ".dart", ".go", ".gradle", ".groovy", ".java"),
        *(".js", ".cjs", ".mjs", ".jsx", ".kt", ".m", ".mm", ".php", ".proto", ".rs", ".scala", ".scss", ".sv", ".swift", ".ts", ".tsx"),
        *(".v", ".zig"),
    ),
    "--": (".ada", ".adb", ".elm", ".hs", ".lua", ".sql", ".vhd", ".vhdl"),
    "%": (".erl", ".sty", ".tex"),
    ";": (".asm", ".clj", ".el", ".lisp", ".scm"),
}
"""Marks of a comment to the end of the line, by file name; all others get `#`."""


class Snippet(NamedTuple):
    """A part of another file that helps to fill in this one."""

    path: str
    """As a reader would name it."""
    text: str


def comment_mark(path: str) -> str:
    """What begins a comment to the end of a line in this file; `#` where nothing is known."""
    return next((mark for mark, ends in COMMENTS.items() if path.lower().endswith(ends)), "#")


def fit_parts(tokenizer: LlamaTokenizer, prefix: str, suffix: str, room: int) -> tuple[str, str]:
    """The end of `prefix` and the beginning of `suffix` that are together at most `room` ids, encoded as in a prompt.

    Both whole when they fit. A part that needs less than its share leaves the rest to the other.
    """
    before, behind = prefix[-room * LONGEST_PIECE :] if room > 0 else "", suffix[: max(room, 0) * LONGEST_PIECE]
    needed = len(prefix_ids(tokenizer, before)), len(suffix_ids(tokenizer, behind))
    if sum(needed) <= room and (before, behind) == (prefix, suffix):
        return prefix, suffix
    prefix_room = min(max(room - needed[1], round(room * PREFIX_SHARE)), room)
    kept = keep_tail(tokenizer, prefix, prefix_room)
    suffix_room = room - len(prefix_ids(tokenizer, kept))
    return kept, keep_head(tokenizer, suffix, suffix_room)


def keep_tail(tokenizer: LlamaTokenizer, text: str, room: int) -> str:
    """The end of `text` in at most `room` ids of a prefix."""
    if room <= 0:
        return ""
    whole, text = text, text[-room * LONGEST_PIECE :]

    def encode(part: str) -> list[int]:
        return prefix_ids(tokenizer, part)

    tail = _kept(encode, text, room, lambda ids, count: text[len(text) - _characters(tokenizer, ids[len(ids) - count :]) :])
    begins_line = len(tail) == len(whole) or whole[len(whole) - len(tail) - 1] == "\n"
    lines = tail.partition("\n")[2]
    return lines if not begins_line and _costs_little(lines, tail) and len(encode(lines)) <= room else tail


def keep_head(tokenizer: LlamaTokenizer, text: str, room: int) -> str:
    """The beginning of `text` in at most `room` ids of a suffix."""
    if room <= 0:
        return ""
    whole, text = text, text[: room * LONGEST_PIECE]

    def encode(part: str) -> list[int]:
        return suffix_ids(tokenizer, part)

    head = _kept(encode, text, room, lambda ids, count: text[: _characters(tokenizer, ids[:count])])
    lines = head[: head.rfind("\n") + 1]
    return lines if len(head) < len(whole) and _costs_little(lines, head) and len(encode(lines)) <= room else head


def _kept(encode: Callable[[str], list[int]], text: str, room: int, cut: Callable[[list[int], int], str]) -> str:
    """A part of `text` of at most `room` ids. A cut text may have other ids than it had inside the whole, so it is counted again."""
    ids = encode(text)
    if len(ids) <= room:
        return text
    count = room
    while count > 0:
        part = cut(ids, count)
        excess = len(encode(part)) - room
        if excess <= 0:
            return part
        count -= excess
    return ""


def _characters(tokenizer: LlamaTokenizer, ids: Sequence[int]) -> int:
    """Characters these ids stand for; half a character counts one or more, never none."""
    return len(tokenizer.decode_infilling(ids))


def _costs_little(lines: str, part: str) -> bool:
    return bool(lines) and 2 * len(lines) >= len(part)


def context_ids(tokenizer: LlamaTokenizer, snippets: Sequence[Snippet], room: int) -> list[int]:
    """Parts of other files as one text of at most `room` ids, each under a comment with its path.

    Args:
        tokenizer: of the model.
        snippets: the most helpful first; it comes last in the text, nearest the prompt. The first that does not fit is cut
            at its end, and those behind it are left out.
        room: ids.
    """
    ids: list[int] = []
    for path, text in snippets:
        block = f"{comment_mark(path)} {path}\n" + text.replace("\r\n", "\n").rstrip("\n") + "\n"
        encoded = prefix_ids(tokenizer, block)
        if len(encoded) > room - len(ids):
            kept = keep_head(tokenizer, block, room - len(ids) - 1)  # one more for the implicit space
            encoded = prefix_ids(tokenizer, kept) if kept.count("\n") > 1 else []
            return [*encoded, *ids] if len(encoded) <= room - len(ids) else ids
        ids = [*encoded, *ids]
    return ids
