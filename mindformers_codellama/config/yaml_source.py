"""YAML files to plain values that remember where they were written.

Anchors, aliases, merge keys and `base_config` work as in MindFormers; `1e-5` and `1.e-5` are
floats; a key given twice in one mapping is refused, because YAML would keep the last in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mindformers_codellama.errors import ConfigError

KeyPath = tuple[str | int, ...]
BASE_KEY = "base_config"
MOST_VALUES = 100_000
"""A real configuration has a few hundred; nested aliases can stand for billions."""
MOST_LEVELS = 100
EXPONENT_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+$")


def _resolvers() -> dict[Any, list[tuple[str, re.Pattern[str]]]]:
    """YAML 1.1 rules, with exponents without a point or sign as floats, and without dates."""
    kept = {
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "-+.0123456789":
        kept.setdefault(first, []).insert(0, ("tag:yaml.org,2002:float", EXPONENT_FLOAT))
    return kept


class _Loader(yaml.SafeLoader):
    """SafeLoader with the float rule above; PyYAML's own classes stay untouched."""

    yaml_implicit_resolvers = _resolvers()


@dataclass
class Source:
    """Values of one configuration and the place each was written.

    `places` maps a key path to `file:line`; `aliases` maps the path of a YAML alias (`*name`) to
    the path of its anchor, so that a later change of the anchor's section can reach both.
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    aliases: dict[KeyPath, KeyPath] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def where(self, path: KeyPath) -> str:
        """`file:line: a.b.c`, from the nearest written ancestor when the key itself is not written."""
        dotted = ".".join(str(part) for part in path)
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                place = self.places[path[:length]]
                return place if place.startswith("--") else f"{place}: {dotted}"
        file = str(self.files[-1]) if self.files else ""
        return f"{file}: {dotted}" if file and dotted else file or dotted

    def place(self, path: KeyPath) -> str:
        """`file:line` of a key path, to be given to something derived from it."""
        return self.where(path).removesuffix(": " + ".".join(str(part) for part in path))

    def forget(self, path: KeyPath) -> None:
        """Drop places and aliases at and below a path that is about to be replaced."""
        for table in (self.places, self.aliases):
            for known in [known for known in table if known[: len(path)] == path]:
                del table[known]

    def put(self, path: KeyPath, value: Any, place: str) -> None:
        """Replace the value at a path whose parent is a mapping or a list.

        Containers on the way are copied: an alias elsewhere keeps the value it had.
        """
        parent: Any = self.values
        for part in path[:-1]:
            parent[part] = list(parent[part]) if isinstance(parent[part], list) else dict(parent[part])
            parent = parent[part]
        self.forget(path)
        parent[path[-1]] = value
        self.places[path] = place


def parse_value(text: str) -> Any:
    """One value written as YAML, by the same rules as in a file.

    Raises:
        yaml.YAMLError: text that is not YAML.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The merged plain values of a YAML file and its `base_config` files.

    Raises:
        ConfigError: a file that is missing, unreadable or not YAML, or a circle of `base_config`.
    """
    return load_source(path).values


def load_source(path: str | Path, *, _chain: tuple[Path, ...] = ()) -> Source:
    """Like `load_yaml`, with the place of every value."""
    file = Path(path).expanduser()
    identity = file.resolve()
    if identity in _chain:
        circle = " -> ".join(item.name for item in (*_chain, identity))
        raise ConfigError(f"{file}: {BASE_KEY}", f"the files include each other: {circle}.", fix="take one of them out.")
    own = _read_one(file)
    bases = own.values.pop(BASE_KEY, None)
    place = own.places.get((BASE_KEY,), str(file))
    names = [bases] if isinstance(bases, str) else bases or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{place}: {BASE_KEY}", f"got {bases!r}.", fix="a file name or a list of file names, relative to this file.")
    merged = Source()
    for name in names:
        base = file.parent / Path(name).expanduser()
        if not base.is_file():
            raise ConfigError(
                f"{place}: {BASE_KEY}", f"{name!r} is not a file (looked for {base}).", fix="paths are relative to this file."
            )
        _merge(merged, load_source(base, _chain=(*_chain, identity)))
    own.forget((BASE_KEY,))
    _merge(merged, own)
    return merged


def _read_one(file: Path) -> Source:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(file, f"is not UTF-8 text ({error.reason} at byte {error.start}).", fix="save it as UTF-8.") from error
    except OSError as error:
        raise ConfigError(file, f"cannot be read ({error.strerror}).", fix="give the path of a YAML file.") from error
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Source(files=[file])
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{file}:1", "the file holds no mapping.", fix="write `key: value` lines.")
        _refuse_duplicates(node, file, set())
        values = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise _not_yaml(error, file, text) from error
    except RecursionError as error:
        raise _too_deep(file) from error
    finally:
        if loader is not None:
            loader.dispose()
    source = Source(values=values, files=[file])
    seen: dict[int, KeyPath] = {}
    for path, line, child in _walk(node, (), (id(node),), file):
        source.places[path] = f"{file}:{line}"
        if len(path) > MOST_LEVELS:
            raise _too_deep(f"{file}:{line}")
        if len(source.places) > MOST_VALUES:
            problem = f"its aliases write out more than {MOST_VALUES} values."
            raise ConfigError(f"{file}:{line}", problem, fix="use fewer aliases of sections that hold aliases.")
        first = seen.setdefault(id(child), path)
        if first != path and not isinstance(child, yaml.ScalarNode):
            source.aliases[path] = first
    return source


def _too_deep(where: object) -> ConfigError:
    return ConfigError(where, "is nested too deeply.", fix=f"at most {MOST_LEVELS} levels; a configuration has about five.")


def _not_yaml(error: yaml.YAMLError, file: Path, text: str) -> ConfigError:
    """What PyYAML found, with the line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        problem = f"is not YAML: the character U+{ord(text[error.position]):04X} is not allowed in it."
        return ConfigError(f"{file}:{line}", problem, fix="take it out, or write the text in double quotes with \\x and two digits.")
    mark = getattr(error, "problem_mark", None)
    return ConfigError(f"{file}:{mark.line + 1}" if mark else file, f"is not YAML: {getattr(error, 'problem', None) or error}.")


def _refuse_duplicates(node: yaml.Node, file: Path, done: set[int]) -> None:
    """Refuse a key written twice in one mapping; merge keys are looked at before they are merged."""
    if id(node) in done:
        return
    done.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, file, done)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if isinstance(name, yaml.ScalarNode) and name.value != "<<":
            if name.value in lines:
                problem = f"is written twice, at lines {lines[name.value]} and {line}; YAML would keep the last."
                raise ConfigError(f"{file}:{line}: {name.value}", problem, fix="take one out.")
            lines[name.value] = line
        _refuse_duplicates(value, file, done)


def _walk(node: yaml.Node, path: KeyPath, above: tuple[int, ...], file: Path) -> Iterator[tuple[KeyPath, int, yaml.Node]]:
    """Every key path below a node with its line; merge keys are already flattened."""
    if isinstance(node, yaml.MappingNode):
        children: list[tuple[str | int, int, yaml.Node]] = [(key.value, key.start_mark.line, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(index, value.start_mark.line, value) for index, value in enumerate(node.value)]
    else:
        return
    for part, line, child in children:
        if id(child) in above:
            raise ConfigError(f"{file}:{line + 1}: {part}", "an alias inside its own anchor.", fix="write the values out.")
        yield (*path, part), line + 1, child
        yield from _walk(child, (*path, part), (*above, id(child)), file)


def _merge(base: Source, over: Source) -> None:
    """Lay one source over another: mappings are merged, everything else is replaced."""
    base.files.extend(over.files)
    _merge_values(base, over, (), base.values, over.values)
    for path, target in over.aliases.items():
        base.aliases[path] = target


def _merge_values(base: Source, over: Source, path: KeyPath, below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for name, value in above.items():
        here: KeyPath = (*path, name)
        if isinstance(value, dict) and isinstance(below.get(name), dict):
            below[name] = dict(below[name])  # an alias shares its mapping; the copy keeps the other one as it was
            base.places[here] = over.place(here)
            base.aliases.pop(here, None)
            _merge_values(base, over, here, below[name], value)
            continue
        base.forget(here)
        below[name] = value
        for known, place in over.places.items():
            if known[: len(here)] == here:
                base.places[known] = place
