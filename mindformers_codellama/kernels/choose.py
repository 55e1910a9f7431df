"""Whether this process computes with the kernels, at which level and with how many threads.

Decided when a run begins (`choose_kernels`), asked by Cells when they are built (`kernels_in_use`). Without a library
there is one warning, and everything is computed with plain MindSpore operators. Not on Ascend.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mindformers_codellama.config.kernels_key import VARIABLE, asked_for
from mindformers_codellama.errors import ConfigError, EnvironmentFault
from mindformers_codellama.kernels import library
from mindformers_codellama.runtime.cores import usable_cores

__all__ = ["VARIABLE", "asked_for", "choose_kernels", "kernels_in_use", "plain_operators"]

logger = logging.getLogger(__name__)


@dataclass
class _Process:
    """What was decided last; one per process, as the level and the threads of the library are."""

    decided: bool = False
    level: str | None = None
    forced: bool = False
    plain: int = 0
    """Nested `plain_operators`."""
    warned: set[str] = field(default_factory=set)


_PROCESS = _Process()


def choose_kernels(key: str = "auto", *, device: str = "CPU", threads: int | None = None) -> str | None:
    """Decide for this process; the newest call holds for Cells built after it.

    Args:
        key: the key `kernels`; `$CODELLAMA_KERNELS` wins.
        device: `context.device_target`.
        threads: `context.runtime_num_threads`; None, and more than there are, take the cores this process may use.

    Returns:
        The level in use, None for plain operators.

    Raises:
        ConfigError: a word that is none of `KERNELS`, a level this machine or build does not have, or one for Ascend.
        EnvironmentFault: a level was asked for, and the library cannot be used.
    """
    where, wanted = asked_for(key)
    level = None
    if device != "CPU":
        if wanted not in ("auto", "off"):
            raise ConfigError(where, f"got {wanted!r}, but the kernels do not run on {device}.", fix="write auto or off.")
    elif wanted != "off":
        level = _use(where, wanted)
    if level is not None:
        _set_threads(threads)
        logger.info("kernels: %s", level)
    _PROCESS.decided, _PROCESS.level = True, level
    return level


def kernels_in_use() -> str | None:
    """Level of the kernels Cells built now compute with, None for plain operators; `auto` when nobody has chosen."""
    if not _PROCESS.decided:
        choose_kernels()
    return None if _PROCESS.plain else _PROCESS.level


@contextmanager
def plain_operators() -> Iterator[None]:
    """Cells built inside compute with plain operators, whatever was chosen."""
    _PROCESS.plain += 1
    try:
        yield
    finally:
        _PROCESS.plain -= 1


def _use(where: str, wanted: str) -> str | None:
    """Load the library and take the level; None when nothing was forced and it cannot be used."""
    try:
        library.load_library()
    except EnvironmentFault as fault:
        if wanted != "auto":
            raise
        _warn_once(f"computing with plain MindSpore operators, which are slower and need more memory: {fault}")
        return None
    if wanted == "auto":
        if _PROCESS.forced:
            next(level for level in library.LEVELS if library.use_level(level))
    elif not library.use_level(wanted):
        had = [level for level in library.LEVELS if level != wanted and _has(level)]
        problem = f"got {wanted!r}, which this machine or this build of the kernels does not have."
        raise ConfigError(where, problem, fix=f"write auto, or one of {', '.join(had)}, off.")
    _PROCESS.forced = wanted != "auto"
    return library.current_level()


def _has(level: str) -> bool:
    """Whether a level can be used; the one in use stays."""
    before = library.current_level()
    found = library.use_level(level)
    library.use_level(before)
    return found


def _set_threads(threads: int | None) -> None:
    cores = usable_cores()
    if threads is not None and threads > cores:
        _warn_once(f"context.runtime_num_threads: got {threads}, but this process may use {cores} cores; the kernels use {cores} threads.")
    library.set_threads(min(threads or cores, cores))


def _warn_once(text: str) -> None:
    if text not in _PROCESS.warned:
        _PROCESS.warned.add(text)
        logger.warning("%s", text)
