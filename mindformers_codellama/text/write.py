"""Write a small file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from mindformers_codellama.errors import TokenizerError


def refuse_existing(path: Path, *, force: bool) -> None:
    """`TokenizerError` when `path` exists and not `force`."""
    if path.exists() and not force:
        raise TokenizerError(path, "the file exists.", fix="choose another name, or pass --force (force=True) to replace it.")


def write_bytes(path: Path, content: bytes, *, force: bool = False) -> None:
    """Write beside the target, fsync, then rename; nothing is left behind on failure.

    Raises:
        TokenizerError: `path` exists and not `force`, or the disk or the rights refuse.
    """
    refuse_existing(path, force=force)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; a tokenizer is for everyone the folder is for
        os.chmod(temporary, 0o644)  # noqa: S103
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise TokenizerError(path, f"cannot be written: {error.strerror or error}.", fix="free space or choose another folder.") from error
