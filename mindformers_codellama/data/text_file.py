"""Write a text file as it is produced, and show it only when it is complete."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from mindformers_codellama.errors import DataError


@contextmanager
def new_text_file(path: Path, *, force: bool = False) -> Iterator[TextIO]:
    """A UTF-8 file to write to; it appears at `path` when the block ends without an error.

    Raises:
        DataError: `path` exists and not `force`, the disk is full, the folder may not be written.
    """
    if path.exists() and not force:
        raise DataError(path, "exists already.", fix="write to another name, or give --force to replace it.")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            path, f"cannot be written: {error.strerror}.", fix="free space, or write elsewhere; nothing was left behind."
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
