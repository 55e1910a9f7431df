"""Errors a person can act on: where, what was wrong, what to write instead.

The library raises these; only `cli` prints them, without a traceback, and exits with
`exit_code`. A broken promise inside the code is an `assert`, never one of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class CodeLlamaError(Exception):
    """Wrong input by a person.

    Args:
        where: the place a person can open: a key, `file:line`, a tensor name, a record index.
        problem: what was given and what is allowed.
        fix: what to write or run instead; empty when nothing useful can be said.

    Renders as `where: problem Fix: fix`.
    """

    exit_code = 1

    def __init__(self, where: object, problem: str, *, fix: str = "") -> None:
        self.where = str(where)
        self.problem = problem
        self.fix = fix
        super().__init__(f"{self.where}: {problem}" + (f" Fix: {fix}" if fix else ""))


class ConfigError(CodeLlamaError):
    """A key, value or combination of the configuration or of the command line."""

    exit_code = 2


class CheckpointError(CodeLlamaError):
    """A checkpoint file that is missing, damaged, or of another model."""

    exit_code = 3


class DataError(CodeLlamaError):
    """A dataset, record or mindrecord file."""

    exit_code = 4


class TokenizerError(CodeLlamaError):
    """A tokenizer file, or token ids that do not fit the model."""

    exit_code = 5


class GenerationError(CodeLlamaError):
    """A prompt or sampling setting that cannot be served."""

    exit_code = 6


class TrainingError(CodeLlamaError):
    """Training that cannot go on: NaN loss, a foreign resume point, a full disk."""

    exit_code = 7


class EnvironmentFault(CodeLlamaError):
    """A missing package, device or file-system right."""

    exit_code = 8


class ClusterError(CodeLlamaError):
    """A rank table, a layout that does not fit the ranks, or a rank that failed or could not be reached."""

    exit_code = 9


class ToldElsewhere(CodeLlamaError):
    """This rank ends because of an error that another rank tells: `cli` prints nothing and exits with the same code."""

    def __init__(self, where: object, problem: str, *, exit_code: int) -> None:
        super().__init__(where, problem)
        self.exit_code = exit_code


class Findings(CodeLlamaError):
    """Several errors of one check, reported together in the order found."""

    def __init__(self, errors: Iterable[CodeLlamaError]) -> None:
        self.errors: tuple[CodeLlamaError, ...] = tuple(errors)
        assert self.errors, "Findings needs at least one error"
        super().__init__(self.errors[0].where, self.errors[0].problem, fix=self.errors[0].fix)
        self.exit_code = self.errors[0].exit_code

    def __iter__(self) -> Iterator[CodeLlamaError]:
        return iter(self.errors)

    def __str__(self) -> str:
        if len(self.errors) == 1:
            return str(self.errors[0])
        lines = "\n".join(f"  {i}. {error}" for i, error in enumerate(self.errors, 1))
        return f"{len(self.errors)} problems:\n{lines}"


def raise_all(errors: Iterable[CodeLlamaError]) -> None:
    """Raise nothing, the one error, or `Findings` of several."""
    found = list(errors)
    if len(found) == 1:
        raise found[0]
    if found:
        raise Findings(found)


def first_line(error: BaseException) -> str:
    """The first line of what another library says; its traces and addresses follow below it."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]
