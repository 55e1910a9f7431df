"""A JSON file whose values remember the line they were written on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from mindformers_codellama.errors import ClusterError, CodeLlamaError

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}


@dataclass
class JsonSource:
    """The values of one file, and the faults found in them so far.

    A key is written `server_list[1].device[3].rank_id`. The readers below note a fault and give a harmless value, so that
    one reading finds everything.
    """

    path: str
    text: str = field(repr=False)
    faults: list[CodeLlamaError] = field(default_factory=list)

    def where(self, key: str) -> str:
        """`file:line: key`; the line of the nearest written ancestor when the key itself is not written."""
        nearest = key
        while nearest and nearest not in self.lines:
            nearest = re.sub(r"(\[\d+\]|\.?[^.\[\]]+)$", "", nearest)
        line = self.lines.get(nearest)
        return f"{self.path}:{line}: {key}" if line and key else f"{self.path}: {key}" if key else self.path

    @cached_property
    def lines(self) -> dict[str, int]:
        """Key to line number, counted from 1."""
        return _lines(self.text)

    def fault(self, key: str, problem: str, *, fix: str = "") -> None:
        """Note what is wrong at a key."""
        self.faults.append(ClusterError(self.where(key), problem, fix=fix))

    def object(self, value: Any, key: str) -> dict[str, Any] | None:
        """An object, or nothing and a fault."""
        if isinstance(value, dict):
            return value
        self.fault(key, f"must be an object {{...}}, got {kind(value)}.")
        return None

    def items(self, values: Mapping[str, Any], name: str, key: str) -> list[tuple[Any, str]]:
        """The elements of a list with at least one element, each with its key."""
        value = self._get(values, name, key)
        if isinstance(value, list) and value:
            return [(item, f"{_join(key, name)}[{i}]") for i, item in enumerate(value)]
        if value is not None:
            self.fault(_join(key, name), "is empty." if value == [] else f"must be a list [...], got {kind(value)}.")
        return []

    def word(self, values: Mapping[str, Any], name: str, key: str, default: str | None = None) -> str:
        """A text that is not empty; `default` when the key may be left out."""
        if name not in values and default is not None:
            return default
        value = self._get(values, name, key)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, str):
            self.fault(_join(key, name), "is empty.")
        elif value is not None:
            fix = f'write "{value}".' if isinstance(value, int) and not isinstance(value, bool) else ""
            self.fault(_join(key, name), f"must be a text in quotes, got {kind(value)}.", fix=fix)
        return ""

    def number(self, values: Mapping[str, Any], name: str, key: str) -> int:
        """A text that is a whole number from 0 on, as HCCL reads it; -1 and a fault otherwise."""
        count = len(self.faults)
        value = self.word(values, name, key)
        if NUMBER.fullmatch(value):
            return int(value)
        if len(self.faults) == count:
            self.fault(_join(key, name), f'must be a whole number in quotes such as "0", got "{value}".')
        return -1

    def unknown(self, values: Mapping[str, Any], known: Iterable[str], key: str) -> list[CodeLlamaError]:
        """A remark for each key that nobody reads, with the near one."""
        known = sorted(known)
        remarks: list[CodeLlamaError] = []
        for name in sorted(set(values) - set(known)):
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean {near[0]}?" if near else ""
            remarks.append(ClusterError(self.where(_join(key, name)), "is a key this program does not know; it is kept as it is.", fix=fix))
        return remarks

    def _get(self, values: Mapping[str, Any], name: str, key: str) -> Any:
        if name not in values:
            self.fault(key, f'has no "{name}".')
            return None
        if values[name] is None:
            self.fault(_join(key, name), "is null.")
        return values[name]


def read_json(path: str | Path) -> tuple[JsonSource, Any]:
    """The file and its value.

    Raises:
        ClusterError: a file that cannot be read, is not JSON (with the line), or gives a key of one object twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ClusterError(path, "is not text.", fix="give a JSON file.") from None
    except OSError as error:
        raise ClusterError(path, f"cannot be read: {error.strerror}.") from None
    source = JsonSource(str(path), text)
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        fix = "JSON has no comments: take them out." if re.search(r"(?m)(^|[\s,\]}])(//|#)", text) else ""
        fix = "the file is empty." if not text.strip() else fix
        raise ClusterError(f"{path}:{error.lineno}", f"is not JSON: {error.msg} (column {error.colno}).", fix=fix) from None
    except RecursionError:
        raise ClusterError(path, "is not a rank table: nested too deeply.") from None
    except _Twice as error:
        raise ClusterError(path, f'gives the key "{error}" twice in one object.', fix="keep one.") from None
    return source, value


def kind(value: Any) -> str:
    """`the number 3`, `a list`: for messages."""
    return f"the number {value}" if isinstance(value, int | float) and not isinstance(value, bool) else KINDS[type(value)]


class _Twice(Exception):
    """A key given twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise _Twice(name)
        values[name] = value
    return values


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _lines(text: str) -> dict[str, int]:
    """Key to line, by walking the tokens of a text that is JSON."""
    lines: dict[str, int] = {}
    path: list[str | int] = []  # of the value that comes next: a name, or an index
    line, seen, name_next = 1, 0, False
    for token in TOKEN.finditer(text):
        line += text.count("\n", seen, token.start())
        seen = token.start()
        word = token.group()
        if word in "}]":
            path.pop()
        elif word == ",":
            last = path[-1]
            path[-1] = last + 1 if isinstance(last, int) else last
            name_next = isinstance(last, str)
        elif word == ":":
            name_next = False
        elif name_next:
            path[-1] = str(json.loads(word))
            lines[_dotted(path)] = line
        else:
            lines.setdefault(_dotted(path), line)
            if word in "{[":
                name_next = word == "{"
                path.append("" if name_next else 0)
    return lines


def _dotted(path: list[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
