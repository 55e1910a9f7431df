"""One answer of `codellama doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Diagnosis:
    """What one check found, and what to do about it."""

    status: Status
    """`failed`: a job cannot run; `warning`: it may run, but look."""
    found: str
    fix: str = ""
    """Empty when nothing is to be done."""


def good(found: str) -> Diagnosis:
    """Nothing to do."""
    return Diagnosis("ok", found)


def look(found: str, fix: str) -> Diagnosis:
    """Worth a look."""
    return Diagnosis("warning", found, fix)


def bad(found: str, fix: str) -> Diagnosis:
    """A job cannot run."""
    return Diagnosis("failed", found, fix)
