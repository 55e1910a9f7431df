"""Keys of encrypted graphs, in files: they never stand on a command line. Without MindSpore."""

from __future__ import annotations

import re
from pathlib import Path

from mindformers_codellama.errors import CheckpointError

MODE = "AES-GCM"
"""How graphs are encrypted."""
SIZES = (16, 24, 32)
"""Bytes of a key."""


def read_key(path: str | Path) -> bytes:
    """The key of a file: 16, 24 or 32 bytes as they are, or as hexadecimal digits with or without a line end.

    Raises:
        CheckpointError: it cannot be read, or has no key.
    """
    path = Path(path).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}.") from error
    text = content.strip()
    if re.fullmatch(rb"[0-9a-fA-F]+", text) and len(text) in [2 * size for size in SIZES]:
        return bytes.fromhex(text.decode())
    if len(content) not in SIZES:
        fix = f"make one: openssl rand -hex 32 > {path.name}"
        raise CheckpointError(path, f"is no key: {len(content)} bytes; a key has 16, 24 or 32 bytes, or twice as many digits.", fix=fix)
    return content


def require_key(where: object, encryption: str, key: bytes | None) -> None:
    """Raise unless a key was given just where graphs are encrypted.

    Args:
        where: the manifest.
        encryption: as the manifest says it; empty when graphs are not encrypted.
        key: that was given.

    Raises:
        CheckpointError: so it is.
    """
    if encryption and key is None:
        raise CheckpointError(where, "is of encrypted graphs, and no key was given.", fix="give --key-file FILE, the one of the export.")
    if key is not None and not encryption:
        raise CheckpointError(where, "is of graphs that are not encrypted, but a key was given.", fix="leave out --key-file.")
