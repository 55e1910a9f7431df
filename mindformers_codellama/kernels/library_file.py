"""The kernel library as a file: is it there, whole, of this version and for this machine? Nothing of it is run."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.kernels.build import NAME, VERSION

PATH_VARIABLE = "CODELLAMA_KERNEL_LIBRARY"
FIX = "install this package again (a C++ compiler is needed), or write kernels: off."


@dataclass(frozen=True)
class LibraryFile:
    """A library that passed every check that needs no loading."""

    path: Path
    levels: tuple[str, ...]
    """It was built with; this machine may lack some."""
    compiler: str
    """First line of its `--version`."""


def library_path() -> Path:
    """Where the library is, or would be: `$CODELLAMA_KERNEL_LIBRARY`, else beside this module."""
    named = os.environ.get(PATH_VARIABLE, "")
    return Path(named) if named else Path(__file__).with_name(NAME)


def fault(path: Path, problem: str) -> EnvironmentFault:
    """The error of a library that cannot be used."""
    named = f"unset {PATH_VARIABLE}, or " if os.environ.get(PATH_VARIABLE) else ""
    return EnvironmentFault(path, problem, fix=named + FIX)


def check_file(path: Path) -> LibraryFile:
    """Check before loading, because loading a damaged file may end the process.

    Args:
        path: of the library; its description lies beside it with the ending `.json`.

    Raises:
        EnvironmentFault: it or its description is missing or cannot be read, or it is damaged, of another version or for
            another machine.
    """
    if not path.is_file():
        raise fault(path, "the kernel library is not there.")
    described = path.with_suffix(".json")
    try:
        facts = json.loads(described.read_text(encoding="utf-8"))
        wanted, version, machine = str(facts["sha256"]), facts["version"], str(facts["machine"])
        levels, compiler = tuple(map(str, facts["levels"])), str(facts["compiler"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise fault(described, f"does not describe the kernel library ({type(error).__name__}: {error}).") from error
    if version != VERSION:
        raise fault(path, f"the kernel library has version {version}, this package needs {VERSION}.")
    if machine != platform.machine():
        raise fault(path, f"the kernel library was built for {machine}, this machine is {platform.machine()}.")
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise fault(path, f"the kernel library cannot be read: {error.strerror}.") from error
    if found != wanted:
        raise fault(path, "the kernel library is damaged (another checksum than when it was built).")
    return LibraryFile(path, levels, compiler)
