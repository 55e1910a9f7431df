"""`GenerationConfig`: how text is produced. Every way of asking for text ends in one of these."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from mindformers_codellama.errors import CodeLlamaError, GenerationError, raise_all

OPTION_NAMES: Mapping[str, str] = {
    "eos_token_id": "eos_token_ids",
    "max_decode_length": "max_length",
    "stop": "stop_strings",
}
"""MindFormers' and other spellings of an option, and the field that holds it."""


def _is_bool(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's too


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not _is_bool(value)


KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (_is_bool, "True or False"),
    "int": (_is_whole, "a whole number"),
    "float": (lambda value: isinstance(value, Real) and not _is_bool(value), "a number"),
    "tuple[int, ...]": (lambda value: all(map(_is_whole, value)), "token ids"),
    "tuple[str, ...]": (lambda value: all(isinstance(text, str) for text in value), "texts"),
}
"""Annotation of a field to the check of its values and their name in messages."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """What `generate` does with the logits, and when it stops. Frozen; ranges are checked at birth.

    Raises:
        GenerationError: a value out of range, or `Findings` of several.
    """

    max_length: int = 20
    """Longest prompt plus answer in tokens; used when `max_new_tokens` is None."""
    max_new_tokens: int | None = None
    """Longest answer in tokens; wins over `max_length`."""
    do_sample: bool = False
    """False takes the most likely token (or beam search when `num_beams` > 1); True draws."""
    temperature: float = 1.0
    """Logits are divided by this before drawing; above 0."""
    top_k: int = 50
    """Draw among the k most likely tokens; 0 keeps all. Not used when `do_sample` is False."""
    top_p: float = 1.0
    """Draw among the fewest tokens whose probability reaches this, in (0, 1]. Not used when `do_sample` is False."""
    repetition_penalty: float = 1.0
    """Positive logits of tokens already seen are divided by this, negative ones multiplied; above 0."""
    encoder_repetition_penalty: float = 1.0
    """The same for the tokens of the prompt, the other way round: above 1 makes them more likely."""
    renormalize_logits: bool = False
    """Turn the logits into log-probabilities again after top-k and top-p; changes no token."""
    num_beams: int = 1
    """Beams kept; above 1 means beam search, which does not draw."""
    length_penalty: float = 1.0
    """Beam scores are divided by length to this power; above 0 prefers long answers."""
    eos_token_ids: tuple[int, ...] = (2,)
    """A row ends after any of these; the ending token is kept."""
    pad_token_id: int = 0
    """Fills rows that have ended or are short."""
    bos_token_id: int = 1
    """First token of a prompt."""
    stop_strings: tuple[str, ...] = ()
    """A row ends when its new text contains any of these."""
    seed: int | None = None
    """Seed of the drawing; None takes seed 0, as MindFormers does."""
    use_past: bool = False
    """Keep keys and values of past positions; False recomputes them. The tokens are the same."""

    def __post_init__(self) -> None:
        raise_all(self._wrong_types())
        raise_all(self._findings())

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.do_sample and self.num_beams == 1

    def updated(self, **options: Any) -> GenerationConfig:
        """This configuration with some options replaced, in our names or in MindFormers'.

        Options that are None are left as they are. Lists become tuples; one end id may be an int.

        Raises:
            GenerationError: an unknown option, with the nearest name, or a value out of range.
        """
        known = {field.name for field in dataclasses.fields(self)}
        changes: dict[str, Any] = {}
        for name, value in options.items():
            field = OPTION_NAMES.get(name, name)
            if field not in known:
                near = difflib.get_close_matches(name, sorted(known | set(OPTION_NAMES)), n=1)
                raise GenerationError(
                    name, "unknown generation option.", fix=f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}."
                )
            if value is not None:
                changes[field] = _as_field(field, value)
        if "max_length" in changes and "max_new_tokens" not in options:
            changes["max_new_tokens"] = None  # a length asked for now wins over one from the model's configuration
        return dataclasses.replace(self, **changes)

    def _wrong_types(self) -> list[CodeLlamaError]:
        found: list[CodeLlamaError] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind = str(field.type)
            if value is None and kind.endswith("| None"):
                continue
            holds, words = KINDS[kind.removesuffix(" | None")]
            if not holds(value):
                found.append(GenerationError(field.name, f"got {value!r}, must be {words}."))
        return found

    def _findings(self) -> list[CodeLlamaError]:
        draw = "for the most likely token write do_sample False."
        rules = (
            ("max_length", self.max_length >= 1, "at least 1", ""),
            ("max_new_tokens", self.max_new_tokens is None or self.max_new_tokens >= 1, "at least 1", "leave it out to use max_length."),
            ("temperature", 0 < self.temperature < math.inf, "above 0", draw),
            ("top_k", self.top_k >= 0, "at least 0", "0 keeps all tokens."),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1", "1 keeps all tokens."),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0", "1 is no penalty."),
            ("encoder_repetition_penalty", 0 < self.encoder_repetition_penalty < math.inf, "above 0", "1 is no penalty."),
            ("num_beams", self.num_beams >= 1, "at least 1", "1 is no beam search."),
            ("length_penalty", math.isfinite(self.length_penalty), "a finite number", ""),
            ("eos_token_ids", all(token >= 0 for token in self.eos_token_ids), "token ids, at least 0", ""),
            ("pad_token_id", self.pad_token_id >= 0, "a token id, at least 0", ""),
            ("bos_token_id", self.bos_token_id >= 0, "a token id, at least 0", ""),
            ("stop_strings", all(self.stop_strings), "texts with at least one character", ""),
            ("seed", self.seed is None or 0 <= self.seed < 2**32, "at least 0 and below 2**32", ""),
        )
        return [
            GenerationError(name, f"got {getattr(self, name)!r}, must be {allowed}.", fix=fix)
            for name, holds, allowed, fix in rules
            if not holds
        ]


def _as_field(field: str, value: Any) -> Any:
    """Lists and single values in the form the field holds."""
    if field in ("eos_token_ids", "stop_strings"):
        return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    return value
