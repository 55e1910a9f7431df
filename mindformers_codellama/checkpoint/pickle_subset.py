"""A reader for the few pickle instructions that `torch.save` uses. Nothing in the file is executed.

Python's `pickle` calls whatever a file names. This reader decodes the instruction stream with
`pickletools` (which only decodes), keeps its own stack, and knows no way to import or call anything:
names resolve through a table of our own constructors, any other name or instruction is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from mindformers_codellama.errors import CheckpointError


@dataclass(frozen=True)
class Constructor:
    """What a name in the file stands for; `make` is ours and takes the pickled arguments."""

    name: str
    make: Callable[..., Any]


class StateDict(dict[Any, Any]):
    """An `OrderedDict` of the file; the attributes torch hangs on it (`_metadata`) are dropped."""


class _Mark:
    pass


_MARK = _Mark()
_PUSH_ARGUMENT = frozenset(
    "BININT BININT1 BININT2 LONG LONG1 LONG4 INT BINFLOAT FLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 UNICODE "
    "BINSTRING SHORT_BINSTRING STRING BINBYTES SHORT_BINBYTES BINBYTES8".split()
)
_PUSH_CONSTANT: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSH_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_DICT": StateDict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_STORE = frozenset({"BINPUT", "LONG_BINPUT", "PUT"})
_FETCH = frozenset({"BINGET", "LONG_BINGET", "GET"})
_NOTHING = frozenset({"PROTO", "FRAME"})


def read_pickle(
    stream: BinaryIO,
    where: str,
    *,
    names: Mapping[tuple[str, str], Any],
    storage: Callable[[Any], Any],
) -> Any:
    """The object in `stream`; leaves the stream just behind it.

    Args:
        stream: positioned at the first instruction.
        where: file and member, for messages.
        names: `(module, name)` -> our `Constructor` or a plain marker value.
        storage: called with each persistent id (torch's reference to tensor bytes).

    Raises:
        CheckpointError: a name or instruction outside the subset (nothing of it was run), or a damaged stream.
    """
    machine = _Machine(where, names, storage)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.run(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise CheckpointError(where, f"is a damaged pickle ({error}).", fix="download it again.") from error
    raise CheckpointError(where, "is a damaged pickle (it has no end).", fix="download it again.")


class _Machine:
    def __init__(self, where: str, names: Mapping[tuple[str, str], Any], storage: Callable[[Any], Any]) -> None:
        self._where = where
        self._names = names
        self._storage = storage
        self._memo: dict[int, Any] = {}
        self.stack: list[Any] = []
        self._handlers: dict[str, Callable[[], None]] = {
            "MARK": lambda: self.stack.append(_MARK),
            "POP": lambda: self._drop(),
            "TUPLE": lambda: self.stack.append(tuple(self._to_mark())),
            "TUPLE1": lambda: self._tuple(1),
            "TUPLE2": lambda: self._tuple(2),
            "TUPLE3": lambda: self._tuple(3),
            "LIST": lambda: self.stack.append(self._to_mark()),
            "DICT": lambda: self.stack.append(self._fill(StateDict(), self._to_mark())),
            "MEMOIZE": lambda: self._memo.__setitem__(len(self._memo), self.stack[-1]),
            "STACK_GLOBAL": self._stack_global,
            "BINPERSID": lambda: self.stack.append(self._storage(self.stack.pop())),
            "REDUCE": self._reduce,
            "BUILD": self._build,
            "SETITEM": lambda: self._set_items(2),
            "SETITEMS": lambda: self._set_items(0),
            "APPEND": lambda: self._append([self.stack.pop()]),
            "APPENDS": lambda: self._append(self._to_mark()),
        }

    def run(self, name: str, argument: Any) -> None:
        """Obey one opcode.

        Args:
            name: as in `pickletools`.
            argument: that stands behind it in the file, or None.
        """
        if name in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif name in _STORE:
            self._memo[int(argument)] = self.stack[-1]
        elif name in _FETCH:
            self.stack.append(self._memo[int(argument)])
        elif name in _PUSH_CONSTANT:
            self.stack.append(_PUSH_CONSTANT[name])
        elif name in _PUSH_EMPTY:
            self.stack.append(_PUSH_EMPTY[name]())
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            self._global(module, attribute)
        elif name in self._handlers:
            self._handlers[name]()
        elif name not in _NOTHING:
            raise self._refusal(f"uses the pickle instruction {name}")

    def _refusal(self, what: str) -> CheckpointError:
        fix = "do not load this file with torch either; use the safetensors version of the checkpoint."
        return CheckpointError(self._where, f"{what}, which a file of tensors does not need; nothing was executed.", fix=fix)

    def _global(self, module: Any, attribute: Any) -> None:
        if (module, attribute) not in self._names:
            raise self._refusal(f"refers to {module}.{attribute}")
        self.stack.append(self._names[module, attribute])

    def _stack_global(self) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise self._refusal("computes a name")
        self._global(module, attribute)

    def _reduce(self) -> None:
        arguments, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(callee, Constructor) or not isinstance(arguments, tuple):
            raise self._refusal("calls a value")
        self.stack.append(callee.make(*arguments))

    def _build(self) -> None:
        self.stack.pop()
        if not isinstance(self.stack[-1], StateDict):
            raise self._refusal("sets attributes of a value")

    def _set_items(self, count: int) -> None:
        pairs = [self.stack.pop() for _ in range(count)][::-1] if count else self._to_mark()
        if not isinstance(self.stack[-1], StateDict):
            raise self._refusal("sets items of a value")
        self._fill(self.stack[-1], pairs)

    def _fill(self, into: StateDict, pairs: list[Any]) -> StateDict:
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, int)):  # a nested tuple as key could take for ever to hash
                raise self._refusal(f"has a {type(key).__name__} as a key")
            into[key] = value
        return into

    def _append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise self._refusal("appends to a value")
        self.stack[-1].extend(values)

    def _tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError("stack underflow")
        values = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.stack.append(values)

    def _to_mark(self) -> list[Any]:
        taken: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def _drop(self) -> None:
        self.stack.pop()
