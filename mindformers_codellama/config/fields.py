"""How a section of the configuration declares a key: default, allowed values, range, other spellings.

A section is a frozen dataclass with a docstring under each field; `key(...)` holds what the type
cannot say. `field_findings` is called at birth, so ranges and choices hold for a section built in
Python as for one read from YAML; types are checked when YAML is read, and by mypy in Python.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from mindformers_codellama.errors import CodeLlamaError, ConfigError, raise_all


@dataclasses.dataclass(frozen=True)
class KeyRule:
    """What a key allows beyond its type. Bounds are inclusive but for `above`."""

    choices: tuple[object, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    also: tuple[float, ...] = ()
    """Values outside the range that are allowed, such as -1 for "to the end"."""
    spellings: Mapping[object, object] = dataclasses.field(default_factory=dict)
    """Other spellings of a value, in lower case, and what they are read as."""

    def wording(self) -> str:
        """The values a key allows, for messages; empty when its type says all."""
        known = {str(choice).lower() for choice in self.choices}
        words = [*map(str, self.choices), *(str(word) for word in self.spellings if word not in known)]
        return f" One of {', '.join(words)}." if self.choices else ""

    def problem(self, value: object) -> tuple[str, str] | None:
        """What is wrong with a value and what to write instead; None when it is allowed."""
        if self.choices and value not in self.choices:
            return f"got {value!r}.", f"one of {', '.join(str(choice) for choice in self.choices)}."
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value in self.also:
            return None
        if not math.isfinite(value):
            return f"got {value!r}.", "a finite number."
        bounds = (
            (self.low, "at least", lambda bound: value >= bound),
            (self.above, "above", lambda bound: value > bound),
            (self.high, "at most", lambda bound: value <= bound),
        )
        if any(bound is not None and not holds(bound) for bound, _, holds in bounds):
            allowed = " and ".join(f"{word} {bound}" for bound, word, _ in bounds if bound is not None)
            extra = f", or {', '.join(str(number) for number in self.also)}" if self.also else ""
            return f"got {value!r}, must be {allowed}{extra}.", ""
        return None


def key(default: Any, **rule: Any) -> Any:
    """A field with a default and a `KeyRule`; a callable default is a factory."""
    metadata = {"rule": KeyRule(**rule)}
    if isinstance(default, Callable):  # type: ignore[arg-type]
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def rule_of(field: dataclasses.Field[Any]) -> KeyRule:
    """The rule a field was declared with; an empty one when it has none."""
    return field.metadata.get("rule") or KeyRule()


@functools.cache
def field_types(section: type) -> Mapping[str, Any]:
    """Field name to its resolved annotation."""
    hints = get_type_hints(section)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def field_findings(section: Any, name: str) -> list[CodeLlamaError]:
    """Every value of a section outside its declared choices or range.

    Args:
        section: a dataclass instance.
        name: the section's place in the YAML, such as `optimizer`.
    """
    found: list[CodeLlamaError] = []
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        items: Sequence[object] = value if isinstance(value, tuple) else (value,)
        for item in items:
            problem = None if item is None else rule_of(field).problem(item)
            if problem:
                found.append(ConfigError(f"{name}.{field.name}" if name else field.name, problem[0], fix=problem[1]))
    return found


def check_fields(section: Any, name: str) -> None:
    """Raise all that `field_findings` finds."""
    raise_all(field_findings(section, name))
