"""Token healing: a prefix that ends inside a token.

`impor` before the cursor is encoded otherwise than the beginning of `import`; a model that has only seen the whole word does not
know how to go on. So the last tokens of the prefix are taken off when a longer piece begins with their text, and the answer has
to begin with that text, in whatever tokens the model likes. Source: arXiv 2308.12950 section 3.2 names the missing healing as
the reason of SPM's loss on spans that begin inside a token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from mindformers_codellama.text.join import SPACE_PIECE
from mindformers_codellama.text.tokenizer import LlamaTokenizer


class PieceIndex:
    """The pieces that stand for text, found by their bytes.

    Args:
        tokenizer: its control, unknown and infilling pieces are left out.
    """

    def __init__(self, tokenizer: LlamaTokenizer) -> None:
        processor = tokenizer.join_rules().processor
        marks = {tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id, tokenizer.eot_id}
        self.bytes_of: dict[int, bytes] = {}
        for index in range(tokenizer.vocab_size):
            if processor.is_byte(index):
                self.bytes_of[index] = bytes([int(processor.id_to_piece(index)[3:5], 16)])
            elif not (processor.is_control(index) or processor.is_unknown(index) or processor.is_unused(index) or index in marks):
                self.bytes_of[index] = str(processor.id_to_piece(index)).replace(SPACE_PIECE, " ").encode()
        self._ids: dict[bytes, list[int]] = defaultdict(list)
        for index, content in self.bytes_of.items():
            self._ids[content].append(index)
        self._sorted = sorted(self._ids)
        self.longest = max(map(len, self._sorted), default=0)

    def beginning_with(self, start: bytes) -> list[int]:
        """Pieces whose bytes begin with `start`, `start` itself among them."""
        found: list[int] = []
        for content in self._sorted[bisect_left(self._sorted, start) :]:
            if not content.startswith(start):
                break
            found += self._ids[content]
        return found

    def beginnings_of(self, text: bytes) -> list[int]:
        """Pieces that are a beginning of `text` and shorter than it."""
        return [index for size in range(1, min(len(text), self.longest + 1)) for index in self._ids.get(text[:size], ())]

    def has_longer(self, start: bytes) -> bool:
        """Whether a piece begins with `start` and goes on."""
        place = bisect_left(self._sorted, start)
        place += place < len(self._sorted) and self._sorted[place] == start
        return place < len(self._sorted) and self._sorted[place].startswith(start)


@lru_cache(maxsize=2)
def piece_index(tokenizer: LlamaTokenizer) -> PieceIndex:
    """The index of a tokenizer; made once, for 32000 pieces take a tenth of a second."""
    return PieceIndex(tokenizer)


def take_off(tokenizer: LlamaTokenizer, ids: Sequence[int]) -> tuple[list[int], str]:
    """A prefix without the last tokens whose text a longer piece begins with, and that text.

    As many tokens as one piece could replace are taken off. That is never a part of a character, for a piece begins with none; and
    no line end where no piece holds one, as in Llama's files.

    Args:
        tokenizer: of the ids.
        ids: an encoded prefix.

    Returns:
        The ids that stay, and the text the answer must begin with; SentencePiece's implicit space is part of it when the
        first token is taken off.
    """
    index = piece_index(tokenizer)
    taken, best = b"", 0
    for count in range(1, len(ids) + 1):
        token = ids[-count]
        if token not in index.bytes_of:
            break
        taken = index.bytes_of[token] + taken
        if len(taken) >= index.longest:
            break
        if index.has_longer(taken):
            best = count
    stay = len(ids) - best
    return list(ids[:stay]), b"".join(index.bytes_of[token] for token in ids[stay:]).decode()


class Beginning:
    """What the next token of an answer may be, until the answer has begun with a given text.

    Args:
        index: of the tokenizer.
        text: not empty.
    """

    def __init__(self, index: PieceIndex, text: str) -> None:
        self._index = index
        self._rest = text.encode()

    @property
    def done(self) -> bool:
        """Whether the answer has begun as it must."""
        return not self._rest

    def allowed(self) -> list[int]:
        """Ids that keep to the text; at least one until it is done."""
        return [*self._index.beginning_with(self._rest), *self._index.beginnings_of(self._rest)]

    def take(self, token: int) -> None:
        """The token that was chosen among the allowed ones."""
        self._rest = self._rest[len(self._index.bytes_of[token]) :]
