"""What a person may give to be filled in, as the parts between cursors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindformers_codellama.errors import GenerationError
from mindformers_codellama.text.holes import split_marks


def read_input(entry: Any, mark: str) -> list[str]:
    """The parts of an input between its cursors.

    Raises:
        GenerationError: it is no text, pair or mapping of two texts.
        ConfigError: a text without the mark.
    """
    if isinstance(entry, str):
        return split_marks(entry, mark)
    pair = [entry.get("prefix"), entry.get("suffix")] if isinstance(entry, Mapping) else entry
    unknown = sorted(set(entry) - {"prefix", "suffix"}) if isinstance(entry, Mapping) else []
    if unknown or not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        problem = f"has the key {unknown[0]!r}." if unknown else f"must be a text, or a prefix and a suffix, got {type(entry).__name__}."
        raise GenerationError(
            "infilling input", problem, fix=f'write "before{mark}behind", ("before", "behind") or {{"prefix", "suffix"}}.'
        )
    return list(pair)


def is_pair(inputs: Any) -> bool:
    """Whether this is one prefix and suffix, not a list of inputs."""
    return isinstance(inputs, tuple) and len(inputs) == 2 and all(isinstance(part, str) for part in inputs)
