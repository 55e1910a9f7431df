"""What a person may give to be filled in, as the parts between cursors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mindformers_codellama.errors import GenerationError
from mindformers_codellama.text.holes import Hole, split_marks


def read_inputs(inputs: Any, mark: str) -> list[list[str]]:
    """The parts of one input or of a list of them.

    Raises:
        GenerationError, ConfigError: as `read_input`.
    """
    if isinstance(inputs, (str, Mapping, Hole)) or is_pair(inputs) or not isinstance(inputs, Iterable):
        inputs = [inputs]
    return [read_input(entry, mark) for entry in inputs]


def read_input(entry: Any, mark: str) -> list[str]:
    """The parts of an input between its cursors.

    Raises:
        GenerationError: it is no text, pair or mapping of two texts.
        ConfigError: a text without the mark.
    """
    if isinstance(entry, str):
        return split_marks(entry, mark)
    pair, wrong = entry, []
    if isinstance(entry, Mapping):
        pair = [entry.get("prefix"), entry.get("suffix")]
        wrong = [f"has the key {key!r}." for key in entry if key not in ("prefix", "suffix")]
        wrong += [f"has no {key}." for key in ("prefix", "suffix") if key not in entry]
    if wrong or not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        problem = wrong[0] if wrong else f"must be a text, or a prefix and a suffix, got {type(entry).__name__}."
        raise GenerationError(
            "infilling input", problem, fix=f'write "before{mark}behind", ("before", "behind") or {{"prefix", "suffix"}}.'
        )
    return list(pair)


def is_pair(inputs: Any) -> bool:
    """Whether this is one prefix and suffix, not a list of inputs."""
    return isinstance(inputs, tuple) and len(inputs) == 2 and all(isinstance(part, str) for part in inputs)
