"""What a command did with a checkpoint; what one has, what a model needs, and every difference between them at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

from mindformers_codellama.checkpoint.files import size_text
from mindformers_codellama.checkpoint.weight_map import OTHER_CONCAT, Sizes
from mindformers_codellama.errors import CheckpointError, CodeLlamaError

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """What making one checkpoint of another did, or with `dry_run` would do; commands add what is theirs."""

    source: str
    source_format: str
    target: str
    tensors: int
    bytes_written: int
    """Of tensors; the headers and small files beside them are not counted, unless a command says so."""
    dry_run: bool
    seconds: float

    def to_json(self) -> str:
        """Every field by its name, indented."""
        return json.dumps(asdict(self), indent=2)

    def head_lines(self, *, source: str, read: str, target: str, wrote: str = "") -> list[str]:
        """What was read and written, for a person.

        Args:
            source: what the source is, in brackets behind its path.
            read: how much of it was read.
            target: what the target is.
            wrote: told behind the size of the target.
        """
        verb = "would write" if self.dry_run else "wrote"
        size = size_text(self.bytes_written)
        return [f"{'read':12}{self.source} ({source}): {read}", f"{verb:12}{self.target} ({target}): {size}{wrote}"]


@dataclass(frozen=True)
class Difference:
    """Names that do not match, each in the order of its side."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[tuple[str, Shape, Shape], ...] = ()
    """Name, shape found, shape needed."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)


@dataclass(frozen=True)
class LoadReport:
    """What loading did."""

    path: str
    loaded: int
    ignored: tuple[str, ...]
    """Left out on purpose: optimizer state, caches, stored angles."""
    difference: Difference
    cast_from: tuple[str, ...]
    """Element types that had to be cast to the parameters' own."""


def compare(found: Mapping[str, Shape], needed: Mapping[str, Shape]) -> Difference:
    """Every missing, unexpected and mis-shaped tensor."""
    return Difference(
        missing=tuple(name for name in needed if name not in found),
        unexpected=tuple(name for name in found if name not in needed),
        misshaped=tuple((name, found[name], needed[name]) for name in needed if name in found and found[name] != needed[name]),
    )


def difference_errors(
    where: object, difference: Difference, found: Mapping[str, Shape], needed: Mapping[str, Shape]
) -> list[CodeLlamaError]:
    """One error per kind of tensor (layers grouped), led by the verdict when the whole file is of another model.

    Args:
        where: the checkpoint, for messages.
        difference: from `compare(found, needed)`.
        found: shapes in the checkpoint, by our names.
        needed: shapes the model wants.
    """
    errors: list[CodeLlamaError] = []
    if difference.misshaped or difference.missing:
        errors.extend(_verdict(where, found, needed))
    shapes: dict[tuple[Shape, Shape], list[str]] = {}
    for name, got, want in difference.misshaped:
        shapes.setdefault((got, want), []).append(name)
    for (got, want), names in shapes.items():
        errors.extend(CheckpointError(name, f"has shape {list(got)}, the model needs {list(want)}.") for name in group_layers(names))
    errors.extend(CheckpointError(name, f"is missing in {where}.") for name in group_layers(difference.missing))
    for name in group_layers(difference.unexpected):
        concat = re.fullmatch(OTHER_CONCAT, name)
        fix = "save it with qkv_concat: False; the row order of this tensor depends on the MindFormers version." if concat else ""
        errors.append(CheckpointError(name, f"is in {where}, but the model has no such parameter.", fix=fix))
    return errors


def group_layers(names: Iterable[str]) -> list[str]:
    """Names with layers of one kind written as a range: `model.layers.{0-31}.attention.wq.weight`."""
    groups: dict[str, list[int]] = {}
    for name in names:
        layer = re.search(r"layers\.(\d+)\.", name)
        key = name.replace(layer[0], "layers.{}.", 1) if layer else name
        groups.setdefault(key, []).extend([int(layer[1])] if layer else [])
    return [key.replace("{}", _ranges(layers), 1) if layers else key for key, layers in groups.items()]


def _ranges(numbers: list[int]) -> str:
    ordered = sorted(numbers)
    starts = [n for n in ordered if n - 1 not in ordered]
    ends = [n for n in ordered if n + 1 not in ordered]
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
    return text if len(ordered) == 1 else "{" + text + "}"


def _verdict(where: object, found: Mapping[str, Shape], needed: Mapping[str, Shape]) -> list[CodeLlamaError]:
    """The sentence that says it all, when there is one."""
    if not set(found) & set(needed):
        some = ", ".join(list(found)[:3]) or "nothing"
        return [CheckpointError(where, f"is not a checkpoint of this model; it holds {some}.")]
    ours, theirs = Sizes.found_in(needed), Sizes.found_in(found)
    if ours is None or theirs is None or ours == theirs:
        return []
    words = {"vocab": "vocab_size", "hidden": "hidden_size", "layers": "num_layers", "intermediate": "intermediate_size"}
    words |= {"query_rows": "query width", "kv_rows": "key/value width", "qkv_has_bias": "qkv_has_bias"}
    differing = [field.name for field in fields(Sizes) if getattr(ours, field.name) != getattr(theirs, field.name)]
    told = "; ".join(f"{words[name]} {getattr(theirs, name)} there, {getattr(ours, name)} in the model" for name in differing)
    fix = "choose the configuration of the checkpoint's size, or another checkpoint."
    return [CheckpointError(where, f"is a checkpoint of another model size: {told}.", fix=fix)]
