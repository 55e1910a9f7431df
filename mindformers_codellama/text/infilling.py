"""Infilling prompts, exactly as Code Llama was trained to see them.

Two orders of the same parts, both ended by the middle token, after which the model writes what stands between:

- prefix, suffix, middle (PSM): `<s> <PRE> prefix <SUF> suffix <MID>`
- suffix, prefix, middle (SPM): `<s> <PRE> <SUF> suffix <MID> prefix`

The prefix is encoded as any text, the suffix without SentencePiece's implicit leading space, each by itself: no token
lies across the cursor. Source: codellama e81b597 llama/generation.py `infilling_prompt_tokens`; arXiv 2308.12950 section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mindformers_codellama.config.families import FAMILIES, ModelFacts
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import GenerationError, TokenizerError
from mindformers_codellama.text.join import SPACE_PIECE
from mindformers_codellama.text.tokenizer import LlamaTokenizer

SHAPE_KEYS = ("hidden_size", "num_layers", "num_kv_heads", "vocab_size", "rope_theta")
"""What tells published models of one family apart when no name is given."""


class InfillingPieces(NamedTuple):
    """Ids of the four pieces of an infilling prompt."""

    prefix: int
    suffix: int
    middle: int
    end: int
    """The model writes it behind a complete middle."""


def infilling_pieces(tokenizer: LlamaTokenizer) -> InfillingPieces:
    """The four ids.

    Raises:
        GenerationError: the tokenizer lacks one; names the models that can infill.
    """
    found = (tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id, tokenizer.eot_id)
    if None in found:
        problem = f"has no infilling pieces ({SPACE_PIECE}<PRE>, <SUF>, <MID>, <EOT>), so its model cannot fill in the middle."
        raise GenerationError(tokenizer.path, problem, fix=_who_can())
    return InfillingPieces(*(int(index) for index in found if index is not None))


def infilling_prompt_ids(tokenizer: LlamaTokenizer, prefix: str, suffix: str, *, suffix_first: bool = False) -> list[int]:
    """Prompt ids after which the model writes what stands between `prefix` and `suffix`.

    The answer ends with the `<EOT>` piece and is read with `tokenizer.decode_infilling`.

    Args:
        tokenizer: of a model that can infill.
        prefix: text before the cursor; CR LF is read as LF.
        suffix: text behind it, likewise. Either may be empty.
        suffix_first: the order SPM instead of PSM.

    Raises:
        GenerationError: the tokenizer has no infilling pieces.
        TokenizerError: a part is not text.
    """
    infilling_pieces(tokenizer)
    prefix, suffix = line_feeds(prefix, suffix)
    return join_parts(tokenizer, prefix_ids(tokenizer, prefix), suffix_ids(tokenizer, suffix), suffix_first=suffix_first)


def join_parts(tokenizer: LlamaTokenizer, prefix: Sequence[int], suffix: Sequence[int], *, suffix_first: bool) -> list[int]:
    """The prompt of encoded parts, the begin token included."""
    pieces = infilling_pieces(tokenizer)
    if suffix_first:
        return [tokenizer.bos_token_id, pieces.prefix, pieces.suffix, *suffix, pieces.middle, *prefix]
    return [tokenizer.bos_token_id, pieces.prefix, *prefix, pieces.suffix, *suffix, pieces.middle]


def prefix_ids(tokenizer: LlamaTokenizer, text: str) -> list[int]:
    """The text before the cursor, with SentencePiece's implicit leading space."""
    return tokenizer.encode_pieces(text, bos=False, eos=False)


def suffix_ids(tokenizer: LlamaTokenizer, text: str) -> list[int]:
    """The text behind the cursor, or a middle: without the implicit space."""
    return tokenizer.encode_infilling(text)


def line_feeds(prefix: str, suffix: str) -> tuple[str, str]:
    r"""Both parts with LF for CR LF; a pair the cursor stands in belongs to the suffix.

    Raises:
        TokenizerError: a part is not text.
    """
    for name, part in (("prefix", prefix), ("suffix", suffix)):
        if not isinstance(part, str):
            raise TokenizerError(name, f"must be a text, got {type(part).__name__}.", fix='"" is an empty one.')
    if prefix.endswith("\r") and suffix.startswith("\n"):
        prefix = prefix[:-1]
    return prefix.replace("\r\n", "\n"), suffix.replace("\r\n", "\n")


def prefers_suffix_first(prefix: str, suffix: str) -> bool:
    """The better order at this cursor: SPM at the beginning or the end of a line, PSM inside a line or a word.

    Source: arXiv 2308.12950 table 14: SPM is ahead on whole lines, asked for at their beginning (7B: 83.3 to 74.1), PSM on spans
    that begin and end anywhere (59.7 to 39.0), which appendix E lays to tokens the cursor cuts.
    """
    begins_line = not prefix.rpartition("\n")[2].strip()
    ends_line = not suffix.partition("\n")[0].strip()
    in_word = prefix[-1:].isalnum() or prefix[-1:] == "_"
    return begins_line or (ends_line and not in_word)


def models_that_infill() -> list[str]:
    """Registry names of the published models that can infill."""
    return [name for name, facts in FAMILIES.items() if facts.can_infill and not facts.source.startswith("this project")]


def require_infilling(tokenizer: LlamaTokenizer, config: ModelConfig, name: str = "") -> None:
    """Refuse a model that cannot fill in the middle: not trained for it, or without the pieces. It would answer with junk.

    Args:
        tokenizer: of the model.
        config: sizes of the model; they tell a published model when there is no name.
        name: registry name, or empty.

    Raises:
        GenerationError: with the reason, and the models that can.
    """
    require_trained_infilling(config, name)
    pieces = infilling_pieces(tokenizer)
    if max(pieces) >= config.vocab_size:
        problem = f"infilling piece {max(pieces)} of {tokenizer.path} is outside the model's vocabulary of {config.vocab_size}."
        raise GenerationError(name or "model", problem, fix=_who_can())


def require_trained_infilling(config: ModelConfig, name: str = "") -> None:
    """Refuse a published model that was not trained to fill in the middle; needs no tokenizer and no weights.

    Raises:
        GenerationError: as `require_infilling`.
    """
    known = _known(config, name)
    if known and not any(facts.can_infill for facts in known):
        who = name or " or ".join(facts.name for facts in known)
        raise GenerationError(who, "was not trained to fill in the middle: it would answer with junk.", fix=_who_can())


def order_of_model(config: ModelConfig, name: str = "") -> bool | None:
    """The order that is better at every cursor for this model: True for SPM; None where the cursor decides.

    Args:
        config: sizes of the model; they tell a model of the registry when there is no name.
        name: registry name, or empty.
    """
    orders = {facts.suffix_first for facts in _known(config, name)}
    return orders.pop() if len(orders) == 1 else None


def _known(config: ModelConfig, name: str) -> list[ModelFacts]:
    return [FAMILIES[name]] if name in FAMILIES else [facts for facts in FAMILIES.values() if _same_shape(facts.config, config)]


def _same_shape(one: ModelConfig, other: ModelConfig) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in SHAPE_KEYS)


def _who_can() -> str:
    return f"models that can infill: {', '.join(models_that_infill())}."
