"""Gears: the few sizes that GE compiles a graph of dynamic shapes for, written in `[ge_graph_options]` of `lite.ini`.

    ge.inputShape=batch_index:-1;batch_valid_length:-1;tokens:-1,1;zactivate_len:-1
    ge.dynamicDims=1,1,1,256;1,1,1,1024;8,8,8,1024
    ge.dynamicNodeType=1

Each group of `ge.dynamicDims` gives one number to every -1 of `ge.inputShape`, in its order (CANN, `ge.dynamicDims`). A call is
padded to the smallest gear that holds it (MindFormers 1.0, `base_infer.py`, `DynShapeGear`). Not run on Ascend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mindformers_codellama.errors import ConfigError, GenerationError
from mindformers_codellama.mindir.lite_ini import GRAPH, LiteIni, nearest
from mindformers_codellama.mindir.protocol import ACTIVE_LENGTH, INPUT_IDS, Signature

SHAPE, DIMS, NODE_TYPE = "ge.inputShape", "ge.dynamicDims", "ge.dynamicNodeType"
TOKENS = "tokens"
"""MindFormers' name of `input_ids` in a graph."""
MOST_GEARS = 100
"""Of one graph (CANN, `ge.dynamicDims`)."""


@dataclass(frozen=True)
class Gears:
    """Rows and positions a graph was compiled for, smallest first."""

    sizes: tuple[tuple[int, int], ...]
    """(rows, positions of the cache that are looked at)."""
    options: Mapping[str, str]
    """`ge.inputShape` and `ge.dynamicDims` with the names and the fixed sizes that the graph has: GE finds inputs by name."""

    def fit(self, rows: int, positions: int) -> tuple[int, int]:
        """The smallest gear that holds so many rows and positions: fewest rows first.

        Raises:
            GenerationError: none does.
        """
        for gear in self.sizes:
            if rows <= gear[0] and positions <= gear[1]:
                return gear
        most = max(gear[0] for gear in self.sizes), max(gear[1] for gear in self.sizes)
        problem = f"no gear holds {rows} rows of {positions} positions; the largest are {most[0]} rows and {most[1]} positions."
        raise GenerationError(DIMS, problem, fix=f"add one to {DIMS} of the increment graph's lite.ini, or ask for less.")


def read_gears(ini: LiteIni, signature: Signature, *, batch_size: int, seq_length: int) -> Gears | None:
    """The gears of a graph; None when its file has none.

    Args:
        ini: of the graph.
        signature: of the graph, dynamic.
        batch_size: rows when `ge.inputShape` leaves them fixed.
        seq_length: positions of the export; positions when they are left fixed.

    Raises:
        ConfigError: one of the keys without the others, or what is wrong with their values.
    """
    written = [key for key in (SHAPE, DIMS, NODE_TYPE) if ini.value(GRAPH, key)]
    if not written:
        return None
    missing = [key for key in (SHAPE, DIMS, NODE_TYPE) if key not in written]
    if missing:
        fix = f"write {', '.join(missing)} too; {NODE_TYPE}=1."
        raise ConfigError(ini.where(GRAPH, written[0]), f"needs {', '.join(missing)} beside it.", fix=fix)
    if ini.value(GRAPH, NODE_TYPE) != "1":
        raise ConfigError(ini.where(GRAPH, NODE_TYPE), "0 is for datasets; these inputs are placeholders.", fix=f"write {NODE_TYPE}=1.")
    inputs = _inputs(ini, signature)
    written_dims = [dim for dims in inputs.values() for dim in dims if dim.written == -1]
    groups = _groups(ini, written_dims)
    sizes = {_gear(ini, group, written_dims, batch_size, seq_length) for group in groups}
    free = [[size for size, dim in zip(group, written_dims, strict=True) if dim.own is None] for group in groups]
    return Gears(tuple(sorted(sizes)), {SHAPE: _shape_text(inputs), DIMS: _dims_text(free)})


@dataclass(frozen=True)
class Dim:
    """One dimension of an input."""

    name: str
    """Of the input, ours."""
    index: int
    written: int
    """In `ge.inputShape`."""
    own: int | None
    """Of the graph; None is any size."""


def _inputs(ini: LiteIni, signature: Signature) -> dict[str, list[Dim]]:
    """Inputs in the order written, under our names."""
    where = ini.where(GRAPH, SHAPE)
    names = [spec.name for spec in signature.inputs]
    found: dict[str, list[Dim]] = {}
    for part in filter(None, ini.value(GRAPH, SHAPE).split(";")):
        written, _, shape = part.partition(":")
        name = INPUT_IDS if written.strip() == TOKENS else written.strip()
        if name not in names or name in found:
            raise ConfigError(where, f"{written.strip()!r} is no input of this graph.", fix=nearest(name, names))
        sizes = _numbers(ini, SHAPE, shape)
        spec = signature.input(name)
        if not _fits(sizes, spec.shape):
            raise ConfigError(where, f"{part!r} does not fit the input {spec}.", fix="write the graph's sizes, or -1.")
        found[name] = [Dim(name, index, size, own) for index, (size, own) in enumerate(zip(sizes, spec.shape, strict=True))]
    if sorted(found) != sorted(names):
        raise ConfigError(where, f"names {', '.join(found)}; the graph takes {', '.join(names)}.", fix="write each input once.")
    return found


def _shape_text(inputs: dict[str, list[Dim]]) -> str:
    """`ge.inputShape` as the graph has it: its names, and -1 only where it takes any size."""
    texts = {name: ",".join(str(dim.written if dim.own is None else dim.own) for dim in dims) for name, dims in inputs.items()}
    return ";".join(f"{name}:{text}" for name, text in texts.items())


def _dims_text(groups: list[list[int]]) -> str:
    return ";".join(dict.fromkeys(",".join(map(str, group)) for group in groups))


def _fits(dims: Sequence[int], shape: Sequence[int | None]) -> bool:
    """Whether sizes are the graph's; -1 may stand anywhere, its groups must then give a fixed size as it is."""
    return len(dims) == len(shape) and all(dim in (-1, own) or (own is None and dim > 0) for dim, own in zip(dims, shape, strict=True))


def _groups(ini: LiteIni, dims: Sequence[Dim]) -> list[list[int]]:
    """The numbers of each group, one for every -1."""
    where, count = ini.where(GRAPH, DIMS), len(dims)
    groups = [_numbers(ini, DIMS, group) for group in ini.value(GRAPH, DIMS).split(";") if group.strip()]
    for group in groups:
        text = ",".join(map(str, group))
        if len(group) != count:
            fix = "one number for every -1, in the order of the inputs."
            raise ConfigError(where, f"{text} has {len(group)} numbers; {SHAPE} has {count} times -1.", fix=fix)
        if min(group) < 1:
            raise ConfigError(where, f"{text} has a number below 1.", fix="sizes are whole numbers of at least 1.")
        for size, dim in zip(group, dims, strict=True):
            if dim.own not in (None, size):
                problem = f"{text} gives {dim.name} the size {size}; these graphs were exported with {dim.own}."
                raise ConfigError(where, problem, fix=f"write {dim.own} there, leave the group out, or export with other sizes.")
    if not 2 <= len(groups) <= MOST_GEARS:
        raise ConfigError(where, f"has {len(groups)} groups; GE takes 2 to {MOST_GEARS}.", fix="separate groups by ;.")
    return groups


def _gear(ini: LiteIni, group: list[int], dims: Sequence[Dim], batch_size: int, seq_length: int) -> tuple[int, int]:
    """(rows, positions) of a group; every input has the same rows."""
    where, text = ini.where(GRAPH, DIMS), ",".join(map(str, group))
    found: dict[str, set[int]] = {"rows": set(), "positions": set()}
    for dim, size in zip(dims, group, strict=True):
        if dim.own is None:
            found["positions" if dim.name == ACTIVE_LENGTH or dim.index == 1 else "rows"].add(size)
    for word, sizes in found.items():
        if len(sizes) > 1:
            problem = f"{text} gives the inputs {' and '.join(map(str, sorted(sizes)))} {word}."
            raise ConfigError(where, problem, fix=f"write the same number of {word} for every input of a group.")
    rows, positions = (max(sizes, default=None) for sizes in found.values())
    if positions is not None and positions > seq_length:
        raise ConfigError(where, f"{text} asks for {positions} positions; the export has {seq_length}.", fix=f"write at most {seq_length}.")
    return rows or batch_size, positions or seq_length


def _numbers(ini: LiteIni, key: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(ini.where(GRAPH, key), f"{text!r} is no list of whole numbers.", fix="separate numbers by commas.") from error
