"""Low-rank adapters of a model that generates: loaded by name, one of them (or none) in use.

An adapter in use is added to the weights themselves, in float32, so generation costs what it costs without one, on every path. The
weights it changes are kept as they were beside it and put back bit for bit: without an adapter the model answers exactly as before.
Packed weights have lost what would have to be put back: one adapter is merged into them before they are packed, and stays.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import mindspore as ms
import numpy as np

from mindformers_codellama.checkpoint.adapter_format import Adapter, read_adapter, require_fits
from mindformers_codellama.checkpoint.adapter_merge import add_low_rank
from mindformers_codellama.errors import ConfigError

logger = logging.getLogger(__name__)

BASE = "base"
"""What the model without an adapter is called where a name is asked for."""
AT_LOAD = 'name one when the floating-point checkpoint is opened (--adapter DIR, or from_pretrained(..., adapter="DIR"))'
SWITCH = "to switch between adapters, open it with weights: auto (--weights auto)"
"""Ways out, for messages."""


NamedAdapter = tuple[str, str]
"""(name, directory) of an adapter to open a model with; an empty name is the directory's own."""


class AdapterSet(Protocol):
    """What a model does with adapters."""

    active: str | None
    """The adapter in use."""

    @property
    def names(self) -> tuple[str, ...]:
        """In the order they were loaded."""

    def load(self, path: str | Path, name: str = "") -> str:
        """Read one and keep it; its name."""

    def use(self, name: str | None) -> None:
        """Compute with one, or with none."""


class Adapters:
    """The adapters of one network, as `AdapterSet`.

    Args:
        parameters: its weights by name; those in use are changed in place.
    """

    def __init__(self, parameters: Mapping[str, ms.Parameter]) -> None:
        self._parameters = parameters
        self._loaded: dict[str, Adapter] = {}
        self._base: dict[str, np.ndarray] = {}
        self.active: str | None = None
        """The adapter in use."""

    @property
    def names(self) -> tuple[str, ...]:
        """In the order they were loaded."""
        return tuple(self._loaded)

    def load(self, path: str | Path, name: str = "") -> str:
        """Read an adapter and keep it, `R (I + O)` numbers per weight; it is not used yet.

        Args:
            path: a directory of PEFT's files.
            name: to use it by; empty is the directory's own.

        Returns:
            The name.

        Raises:
            ConfigError: a name that is taken.
            CheckpointError: as `read_adapter`; an adapter of another model.
        """
        folder = Path(path).expanduser()
        name = name or own_name(folder)
        if name in self._loaded or name == BASE:
            taken = "stands for the model without an adapter" if name == BASE else "is the name of an adapter already"
            raise ConfigError(f"adapter {name}", f"{taken}.", fix=f"give another name: --adapter NAME={path}.")
        adapter = read_adapter(folder)
        require_fits(adapter, {name: tuple(parameter.shape) for name, parameter in self._parameters.items()})
        self._loaded[name] = adapter
        logger.info("adapter %s: %d weights of rank %d from %s", name, len(adapter.weights), adapter.config.rank, folder)
        return name

    def use(self, name: str | None) -> None:
        """Compute with this adapter from the next prompt on; None (or `base`) with none.

        Raises:
            ConfigError: no adapter of this name.
        """
        if name == BASE:
            name = None
        if name is not None and name not in self._loaded:
            near = get_close_matches(name, self._loaded, n=1)
            known = ", ".join((BASE, *self._loaded))
            raise ConfigError(f"adapter {name}", "is not loaded.", fix=f"did you mean {near[0]}?" if near else f"one of {known}.")
        if name == self.active:
            return
        self._put_back()
        if name is not None:
            for weight, pair in self._loaded[name].weights.items():
                parameter = self._parameters[weight]
                held = parameter.asnumpy().copy()
                self._base[weight] = held
                parameter.set_data(ms.Tensor(add_low_rank(held, pair).astype(held.dtype)))
        self.active = name

    def _put_back(self) -> None:
        for weight, held in self._base.items():
            self._parameters[weight].set_data(ms.Tensor(held))
        self._base.clear()
        self.active = None


class PackedAdapters:
    """The adapter of packed weights, as `AdapterSet`: the one that was merged before they were packed, or none; it cannot change.

    Args:
        form: of the weights, `bfloat16`, `int8` or `int4`.
        merged: name of the adapter that is in them.
    """

    def __init__(self, form: str, merged: str | None = None) -> None:
        self._form = form
        self.active = merged

    @property
    def names(self) -> tuple[str, ...]:
        """The one that is merged."""
        return () if self.active is None else (self.active,)

    def load(self, path: str | Path, name: str = "") -> str:
        """Refused: it would be added to weights that were rounded already.

        Raises:
            ConfigError: always.
        """
        problem = f"the weights are packed as {self._form}; an adapter is merged into them before they are packed, not afterwards."
        raise ConfigError(f"adapter {name or own_name(Path(path))}", problem, fix=f"{AT_LOAD}; {SWITCH}.")

    def use(self, name: str | None) -> None:
        """Nothing to do for the one in use.

        Raises:
            ConfigError: any other; adapters of packed weights are not switched.
        """
        wanted = None if name == BASE else name
        if wanted == self.active:
            return
        held = "no adapter in them" if self.active is None else f"adapter {self.active} merged into them"
        problem = f"the weights are packed as {self._form} with {held}; adapters of packed weights cannot be switched."
        raise ConfigError(f"adapter {name or BASE}", problem, fix=f"{SWITCH}, or open the model again.")


def own_name(folder: Path) -> str:
    """Name of an adapter that was given none: its directory's."""
    return folder.expanduser().resolve().name


def split_name(given: str) -> NamedAdapter:
    """`NAME=DIR` or `DIR` of a command line as (name, directory); the name may be empty."""
    name, equals, folder = given.partition("=")
    return (name, folder) if equals and name and "/" not in name else ("", given)


class CanAdapt(Protocol):
    """A model that takes adapters."""

    def load_adapter(self, path: str | Path, name: str = "") -> str:
        """Load one; its name."""

    def set_adapter(self, name: str | None) -> None:
        """Use one, or none."""


def use_adapters(model: CanAdapt, given: Sequence[NamedAdapter]) -> None:
    """Load adapters and use the first."""
    names = [model.load_adapter(folder, name) for name, folder in given]
    if names:
        model.set_adapter(names[0])
