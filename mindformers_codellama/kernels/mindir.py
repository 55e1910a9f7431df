"""MindIR files that hold kernel operators: the path of the kernel library is baked into them and must be set anew where they are used.

In the file (MindSpore's protobuf `mind_ir.proto`) an operator is a primitive whose attributes are strings: `func_type` is `aot`,
`func_name` is `/path/of/library.so:EntryPoint` and `uniq_name` the same behind `Custom__`. Seen with MindSpore 2.10.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from mindspore.train import mind_ir_pb2

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.kernels.library import library_path, load_library


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
    model = mind_ir_pb2.ModelProto()
    try:
        before = path.read_bytes()
        model.ParseFromString(before)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}.") from error
    except DecodeError as error:
        raise CheckpointError(path, "is no MindIR file.", fix="give the .mindir file that export wrote.") from error
    found = sum(_relocate(path, owner) for owner in [*model.primitives, *model.graph.node, *(n for f in model.functions for n in f.node)])
    after = model.SerializeToString()
    if found and after != before:
        _replace(path, after)
    return found


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
