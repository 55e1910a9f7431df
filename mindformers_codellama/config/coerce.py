"""Plain YAML values to the type a field declares, with messages that name both."""

from __future__ import annotations

import types
import typing
from typing import Any

from mindformers_codellama.config.fields import KeyRule


class WrongType(Exception):
    """A value whose type a field does not take; `allowed` is for the message."""

    def __init__(self, allowed: str) -> None:
        self.allowed = allowed
        super().__init__(allowed)


def describe(kind: Any) -> str:
    """A type as a person would say it: `int`, `float or null`, `list of str`."""
    if kind is type(None):
        return "null"
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return f"list of {describe(arguments[0])}"
    if arguments:
        return " or ".join(describe(item) for item in arguments)
    plain = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return plain.get(kind, "a section")


def given(value: object) -> str:
    """A value as a person wrote it, with its type."""
    if value is None:
        return "null"
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "a section"}
    return f"{value!r} ({words.get(type(value), type(value).__name__)})"


def coerce(value: Any, kind: Any, rule: KeyRule) -> Any:
    """The value in the declared type, other spellings replaced.

    Whole numbers serve as numbers; a number without a fraction (`1.e3`) as a whole number; one value
    as a list of one; null as an empty text or list; Python's `None` as null where null is allowed and a text is not.
    Nothing else is converted: `"1"` is not 1.

    Raises:
        WrongType: anything else.
    """
    if rule.spellings and str(value).lower() in rule.spellings:
        value = rule.spellings[str(value).lower()]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _coerce_union(value, kind, rule)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        items = [] if value is None else value if isinstance(value, (list, tuple)) else [value]
        try:
            return tuple(coerce(one, item, rule) for one in items)
        except WrongType as error:
            raise WrongType(describe(kind)) from error
    return _coerce_plain(value, kind)


def _coerce_union(value: Any, kind: Any, rule: KeyRule) -> Any:
    options = typing.get_args(kind)
    if type(None) in options and (value is None or (value == "None" and str not in options)):
        return None
    for option in options:
        if option is type(None) or (typing.get_origin(option) is tuple and not isinstance(value, (list, tuple))):
            continue
        try:
            return coerce(value, option, rule)
        except WrongType:
            continue
    raise WrongType(describe(kind))


def _coerce_plain(value: Any, kind: Any) -> Any:
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and (value is None or isinstance(value, str)):
        return value or ""
    if isinstance(value, bool):
        raise WrongType(describe(kind))
    if kind is int and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return int(value)
    if kind is float and isinstance(value, (int, float)):
        return float(value)
    raise WrongType(describe(kind))
