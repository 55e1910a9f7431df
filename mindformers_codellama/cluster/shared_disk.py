"""Whether a folder is on a disk that several machines share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mounts")
SHARED_PATHS = "SHARED_PATHS"
"""Environment variable of MindFormers: folders, separated by commas, that are shared whatever their file system says."""
SHARED_TYPES = ("nfs", "nfs4", "dpc", "lustre", "gpfs", "ceph", "cifs", "smb3", "9p", "glusterfs", "beegfs", "wekafs", "virtiofs")
"""File systems on a network; MindFormers knows nfs and dpc."""


class Disk(NamedTuple):
    """The file system a folder is on."""

    mount_point: str
    file_system: str
    shared: bool


def disk_of(path: Path, *, mounts: Path = MOUNTS) -> Disk:
    """The file system of a folder that need not exist yet. Any FUSE file system (sshfs, s3fs, juicefs) counts as shared, as in MindFormers.

    Raises:
        OSError: the mounts cannot be read.
    """
    real = Path(os.path.realpath(path))
    place, kind = "/", "unknown"
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split(" ")
        if len(words) < 3:
            continue
        folder = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), words[1]))
        if real.is_relative_to(folder) and len(str(folder)) >= len(place):  # of two mounts at one place the later one is seen
            place, kind = str(folder), words[2]
    named = any(real.is_relative_to(os.path.realpath(word)) for word in _named())
    shared = named or kind in SHARED_TYPES or kind == "fuse" or kind.startswith("fuse.")
    return Disk(place, kind, shared)


def _named() -> list[str]:
    return [word.strip() for word in os.environ.get(SHARED_PATHS, "").split(",") if word.strip()]


def existing_part(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    whole = path.absolute()
    return next(parent for parent in (whole, *whole.parents) if os.path.exists(parent))
