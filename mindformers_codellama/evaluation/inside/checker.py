"""The process of a problem's tests: they call a function that lives in another process, and see plain values alone.

Standard input holds the job, standard output takes the verdict; the program has neither. Two numbers on the command line are the
pipes to the program and from it.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).parent))
from confine import confine, private_pipe  # type: ignore[import-not-found]  # noqa: E402
from frames import FrameError, pack, receive, send, unpack  # type: ignore[import-not-found]  # noqa: E402

sys.path.pop(0)


class ProgramGone(BaseException):
    """The program ended, or does not keep to the rules; no test may catch it."""


class ProgramError(Exception):
    """An exception of the program whose kind is not one of Python's own."""


class Candidate:
    """The function under test, as the tests call it.

    Args:
        calls, answers: the pipes.
    """

    def __init__(self, calls: BinaryIO, answers: BinaryIO) -> None:
        self._calls = calls
        self._answers = answers
        self.gone = ""
        """Why there will be no more answers."""

    def load(self, source: str, entry_point: str) -> None:
        """Let the program define the function; its exception is raised here."""
        self._ask({"source": source, "entry_point": entry_point})

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call it. Lists, dictionaries and sets given to it are afterwards what it made of them."""
        answer = self._ask({"arguments": pack(arguments), "named": pack(named)})
        try:
            for given, left in zip(arguments, unpack(answer["arguments"]), strict=True):
                write_back(given, left)
            return unpack(answer["value"])
        except FrameError as error:
            raise self._lost(f"the value it gave {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise self._lost("an answer that is none") from error

    def _ask(self, message: Any) -> dict[str, Any]:
        if self.gone:
            raise ProgramGone(self.gone)
        try:
            send(self._calls, message)
            answer = receive(self._answers)
        except FrameError as error:
            raise self._lost(f"the program {error}") from error
        if answer is None:
            raise self._lost("the program ended")
        if not isinstance(answer, dict):
            raise self._lost("an answer that is none")
        if "raised" in answer:
            raise raised(answer["raised"])
        return answer

    def _lost(self, why: str) -> ProgramGone:
        self.gone = self.gone or why
        return ProgramGone(self.gone)


def raised(told: Any) -> Exception:
    """The program's exception, when it is one of Python's own kinds; else `ProgramError`."""
    name, text = (str(part) for part in told) if isinstance(told, list) and len(told) == 2 else ("", "")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):  # one that wants other arguments, such as UnicodeDecodeError
            return kind(text)
    return ProgramError(f"{name}: {text}")


def write_back(given: Any, left: Any) -> None:
    """Make a container what the program left of it."""
    if type(given) is list and type(left) is list:
        given[:] = left
    elif (type(given) is dict and type(left) is dict) or (type(given) is set and type(left) is set):
        if given != left:
            given.clear()
            given.update(left)


def prompt_code(prompt: str) -> CodeType:
    """What the prompt defines, its last function without a body; tests may use its helpers."""
    for source in (prompt, f"{prompt}\n    pass\n"):
        with suppress(SyntaxError):
            return compile(source, "prompt.py", "exec")
    return compile("", "prompt.py", "exec")


def verdict(job: dict[str, str], candidate: Candidate) -> str:
    """`passed`, or `failed: ` and why."""
    scope: dict[str, Any] = {"__name__": "checker"}
    try:
        exec(prompt_code(job["prompt"]), scope)  # noqa: S102 - functions that tests use; the dataset's own
        candidate.load(job["source"], job["entry_point"])
        scope[job["entry_point"]] = candidate
        exec(compile(job["test"], "test.py", "exec"), scope)  # noqa: S102 - the dataset's own
        scope["check"](candidate)
    except ProgramGone as error:
        return f"failed: {error}"
    except BaseException as error:
        return f"failed: {type(error).__name__}: {error}"[:300].rstrip(": ")
    return f"failed: {candidate.gone}" if candidate.gone else "passed"


def main() -> None:
    """Judge one sample."""
    confine(json.loads(sys.argv[1]))
    calls, answers = os.fdopen(int(sys.argv[2]), "wb"), os.fdopen(int(sys.argv[3]), "rb")
    job = json.load(sys.stdin)
    result = private_pipe(1, "wb")
    private_pipe(2, "wb")
    found = verdict(job, Candidate(calls, answers))
    result.write(json.dumps({"result": found}).encode())
    result.flush()
    os._exit(0)  # tests may have left threads


if __name__ == "__main__":
    main()
