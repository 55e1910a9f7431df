"""MindIR files that hold kernel operators: the path of the kernel library is baked into them, and is another one where they are used.

In the file (MindSpore's protobuf `mind_ir.proto`) an operator is a primitive whose attributes are strings: `func_type` is `aot`,
`func_name` is `/path/of/library.so:EntryPoint` and `uniq_name` the same behind `Custom__`. Seen with MindSpore 2.10.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from mindspore.train import mind_ir_pb2

from mindformers_codellama.errors import CheckpointError, EnvironmentFault
from mindformers_codellama.kernels.library import library_path, load_library

ROWS = "LlamaRows"
"""Entry point of exported graphs."""


def require_entries(names: Sequence[str], *, where: object) -> None:
    """Raise unless this process's kernel library has these entry points.

    Args:
        names: of entry points.
        where: what needs them, for the error.

    Raises:
        EnvironmentFault: the library cannot be used, or lacks one.
    """
    missing = [name for name in names if not hasattr(load_library(), name)]
    if missing:
        problem = f"needs the entry point {missing[0]}, which the kernel library {library_path()} does not have."
        raise EnvironmentFault(where, problem, fix="install this package again, so that the library is built of its sources.")


@contextmanager
def fitted(path: Path) -> Iterator[Path]:
    """A MindIR file whose kernel operators use this process's library: the file itself, or a copy beside it while the context is open.

    The copy lies beside the file because MindSpore reads weights only below a graph's own folder.

    Raises:
        CheckpointError, EnvironmentFault: as `relocate`; a copy is needed and cannot be written.
    """
    model, before = _read(path)
    relocate_model(path, model)
    after = model.SerializeToString()
    if after == before:
        yield path
        return
    copy = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        copy.write_bytes(after)
    except OSError as error:
        copy.unlink(missing_ok=True)
        problem = f"names a kernel library of another place, and the copy that names this one cannot be written: {error.strerror or error}."
        raise CheckpointError(path, problem, fix="copy the export to a folder that can be written.") from error
    try:
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def relocate(path: str | Path) -> int:
    """Let the kernel operators of a MindIR file use this process's kernel library.

    The file is replaced as a whole, and only when something in it changes; its permissions stay.

    Args:
        path: a `.mindir` file; of a model in two files the one that ends with `_graph.mindir`.

    Returns:
        How many operators of ours the file has.

    Raises:
        CheckpointError: it cannot be read or written, is no MindIR, or needs an entry point this library does not have.
        EnvironmentFault: the kernel library cannot be used.
    """
    path = Path(path)
    model, before = _read(path)
    found = relocate_model(path, model)
    after = model.SerializeToString()
    if found and after != before:
        _replace(path, after)
    return found


def _read(path: Path) -> tuple[Any, bytes]:
    """The `ModelProto` of a file, and its bytes."""
    model = mind_ir_pb2.ModelProto()
    try:
        content = path.read_bytes()
        model.ParseFromString(content)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}.") from error
    except DecodeError as error:
        raise CheckpointError(path, "is no MindIR file.", fix="give the .mindir file that export wrote.") from error
    return model, content


def read_model(path: Path) -> Any:
    """The `ModelProto` of a MindIR file.

    Raises:
        CheckpointError: it cannot be read, or is no MindIR.
    """
    return _read(path)[0]


def relocate_model(path: Path, model: Any) -> int:
    """As `relocate`, of what was read from a file; nothing is written.

    Args:
        path: of the file, for errors.
        model: a `ModelProto`, changed.
    """
    return sum(_relocate(path, owner) for owner in [*model.primitives, *model.graph.node, *(n for f in model.functions for n in f.node)])


def _relocate(path: Path, owner: Any) -> int:
    """Set the library of one primitive or node; 1 when it has one of ours."""
    attributes = {attribute.name: attribute for attribute in owner.attribute}
    if "func_type" not in attributes or attributes["func_type"].s != b"aot":
        return 0
    name = attributes["func_name"].s.decode()
    _, colon, entry = name.rpartition(":")
    if not colon:
        return 0
    if not hasattr(load_library(), entry):
        raise CheckpointError(
            path, f"needs the entry point {entry}, which this kernel library does not have.", fix="export the model again."
        )
    wanted = f"{library_path().resolve()}:{entry}"
    attributes["func_name"].s = wanted.encode()
    if "uniq_name" in attributes:
        attributes["uniq_name"].s = attributes["uniq_name"].s.decode().replace(name, wanted).encode()
    return 1


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.chmod(path.stat().st_mode & 0o7777)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(path, f"cannot be written: {error.strerror or error}.") from error
