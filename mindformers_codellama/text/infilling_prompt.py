"""One infilling request as ids: order, healing, trimming and other files put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mindformers_codellama.errors import GenerationError
from mindformers_codellama.text.healing import take_off
from mindformers_codellama.text.infilling import infilling_pieces, join_parts, line_feeds, prefers_suffix_first, prefix_ids, suffix_ids
from mindformers_codellama.text.infilling_fit import CONTEXT_SHARE, Snippet, context_ids, fit_parts
from mindformers_codellama.text.tokenizer import LlamaTokenizer

FRAME = 4
"""Ids around the parts: begin, prefix, suffix and middle token."""
NO_LIMIT = 1 << 40


@dataclass(frozen=True, kw_only=True)
class InfillingPrompt:
    """What the model reads, and what its answer must be like."""

    ids: list[int]
    prefix: str
    """Text before the cursor that the model sees, with LF line ends."""
    suffix: str
    """Text behind the cursor that the model sees."""
    suffix_first: bool
    healed: str
    """Text of the prefix that was taken off: the answer begins with it, and the middle behind it."""
    trimmed: bool
    """The model does not see all of prefix and suffix."""


def infilling_prompt(
    tokenizer: LlamaTokenizer,
    prefix: str,
    suffix: str,
    *,
    suffix_first: bool | None = None,
    heal: bool = True,
    room: int | None = None,
    context: Sequence[Snippet] = (),
) -> InfillingPrompt:
    """The prompt of one cursor. Without healing, trimming and context its ids are those of `infilling_prompt_ids`.

    Args:
        tokenizer: of a model that can infill.
        prefix: text before the cursor.
        suffix: text behind it.
        suffix_first: order SPM; None chooses by the cursor (`prefers_suffix_first`).
        heal: take off the end of a prefix that ends inside a token.
        room: most ids of the prompt; None takes everything.
        context: parts of other files, the most helpful first; they stand before the prefix token, as far as there is room.

    Raises:
        GenerationError: no infilling pieces, or `room` for less than the frame and one id.
        TokenizerError: a part is not text.
    """
    infilling_pieces(tokenizer)
    before, behind = whole = line_feeds(prefix, suffix)
    if suffix_first is None:
        suffix_first = prefers_suffix_first(before, behind)
    others: list[int] = []
    if room is None:
        others = context_ids(tokenizer, context, NO_LIMIT)
    else:
        if room <= FRAME:
            problem = f"an infilling prompt needs more than {FRAME} positions, there is room for {room}."
            raise GenerationError("infilling", problem, fix="ask for fewer new tokens, or use a model with a larger seq_length.")
        # first what other files need at least, then the file itself, then the rest of other files
        least = context_ids(tokenizer, context, int((room - FRAME) * CONTEXT_SHARE))
        before, behind = fit_parts(tokenizer, before, behind, room - FRAME - len(least))
        used = len(prefix_ids(tokenizer, before)) + len(suffix_ids(tokenizer, behind))
        others = context_ids(tokenizer, context, room - FRAME - used)
    kept, healed = prefix_ids(tokenizer, before), ""
    if heal:
        kept, healed = take_off(tokenizer, kept)
    ids = join_parts(tokenizer, kept, suffix_ids(tokenizer, behind), suffix_first=suffix_first)
    return InfillingPrompt(
        ids=[ids[0], *others, *ids[1:]],
        prefix=before,
        suffix=behind,
        suffix_first=suffix_first,
        healed=healed,
        trimmed=(before, behind) != whole,
    )
