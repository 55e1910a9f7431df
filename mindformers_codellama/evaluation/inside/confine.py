"""Limits that a process puts on itself before it runs code of others; it cannot lift them again."""

from __future__ import annotations

import os
import resource
from typing import Any


def confine(limits: dict[str, Any]) -> None:
    """Take on the limits, and another user where one is given.

    Args:
        limits: `cpu_seconds`, `memory_bytes` (address space), `file_bytes`, `files` (open ones), `processes`, and `uid`: a user
            id to become, or None.

    Raises:
        OSError, ValueError: the system refuses; nothing may be run then.
    """
    for name, value, spare in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, limits["cpu_seconds"], 1),  # SIGXCPU first; SIGKILL for who ignores it
        (resource.RLIMIT_AS, limits["memory_bytes"], 0),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], 0),
        (resource.RLIMIT_NOFILE, limits["files"], 0),
        (resource.RLIMIT_NPROC, limits["processes"], 0),
    ):
        _, hard = resource.getrlimit(name)
        most = value + spare if hard == resource.RLIM_INFINITY else min(value + spare, hard)
        resource.setrlimit(name, (min(value, most), most))
    uid = limits["uid"]
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def private_pipe(number: int, mode: str) -> Any:
    """A standard stream moved out of the way, `/dev/null` in its place; binary, not inherited by children."""
    pipe = os.fdopen(os.dup(number), mode)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)
    os.close(null)
    return pipe
