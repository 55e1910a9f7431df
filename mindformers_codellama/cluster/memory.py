"""Memory this process may still take: of the machine, and of the control groups it is in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")
UNLIMITED = 1 << 60
"""Version 1 writes "no limit" as a number near 2**63."""


def available_memory(*, proc: Path = PROC, cgroup: Path = CGROUP) -> tuple[int, str]:
    """Bytes, and what sets the bound: `machine` or `control group`.

    In a container the group's limit counts, not the machine's memory. Page cache that can be dropped counts as free.

    Raises:
        OSError: not a Linux with /proc.
    """
    found = re.search(r"MemAvailable:\s*(\d+) kB", (proc / "meminfo").read_text(encoding="ascii"))
    if found is None:
        raise OSError("MemAvailable is not in /proc/meminfo")
    machine = int(found[1]) * 1024
    group = min(_group_rooms(proc, cgroup), default=machine)
    return (group, "control group") if group < machine else (machine, "machine")


def _group_rooms(proc: Path, cgroup: Path) -> Iterator[int]:
    """Bytes left in each memory group this process is in, from its own up to the root (a container sees its own as the root)."""
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names = (cgroup, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        root, limit, usage, cache = names
        inner = root / path.lstrip("/")
        for folder in {root, inner, *(parent for parent in inner.parents if parent.is_relative_to(root))}:
            room = _room(folder, limit, usage, cache)
            if room is not None:
                yield room


def _room(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        if not most.isdigit() or int(most) >= UNLIMITED:
            return None
        used = int((folder / usage).read_text(encoding="ascii"))
        kept = re.search(rf"(?m)^{cache} (\d+)$", (folder / "memory.stat").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return max(0, int(most) - used + (int(kept[1]) if kept else 0))
