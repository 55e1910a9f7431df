"""One sample judged: its program in one process, the problem's tests in another, a verdict from the second alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.evaluation.problems import Problem
from mindformers_codellama.evaluation.sandbox import Limits, Sandbox

PASSED = "passed"
TIMED_OUT = "timed out"
LONGEST_VERDICT = 1000
LOOK_SECONDS = 0.2
"""From one look at `stop` to the next."""
KILLED = (signal.SIGXCPU, signal.SIGKILL)
"""How a process ends that has used up its CPU time."""


@dataclass(frozen=True)
class Verdict:
    """How a sample did."""

    result: str
    """`passed`, `timed out`, or `failed: ` and why; the words of the official tool."""

    @property
    def passed(self) -> bool:
        """Whether all tests held."""
        return self.result == PASSED


class Stopped(Exception):
    """Judging was given up because `stop` was set."""


def judge(problem: Problem, completion: str, sandbox: Sandbox, limits: Limits, *, stop: threading.Event | None = None) -> Verdict:
    """Run a sample against its tests.

    Args:
        problem: its prompt and tests.
        completion: of the model; the problem makes a program of it.
        sandbox: where.
        limits: of each process.
        stop: gives up soon when set.

    Raises:
        EnvironmentFault: the checker did not come to a verdict by itself: the sandbox failed.
        Stopped: `stop` was set.
    """
    job = {
        "prompt": problem.helpers,
        "source": problem.source(completion),
        "entry_point": problem.entry_point,
        "test": problem.test,
    }
    with ExitStack() as stack:
        quiet: dict[str, Any] = {
            "cwd": stack.enter_context(tempfile.TemporaryDirectory(prefix="codellama-eval-")),
            "stderr": subprocess.DEVNULL,
        }
        with _pipe() as (calls_out, calls_in), _pipe() as (answers_out, answers_in):  # here they are closed once both have started
            program = sandbox.start("program.py", limits, stdin=calls_out, stdout=answers_in, **quiet)
            stack.enter_context(_ended(program))
            ends = (calls_in.fileno(), answers_out.fileno())
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            checker = sandbox.start("checker.py", limits, *ends, pass_fds=ends, **pipes, **quiet)
            stack.enter_context(_ended(checker))
        answer = _answer(checker, json.dumps(job).encode(), limits.wall_seconds, stop)
        return Verdict(TIMED_OUT) if answer is None else _verdict(answer, program, checker)


def _answer(checker: subprocess.Popen[bytes], job: bytes, seconds: float, stop: threading.Event | None) -> bytes | None:
    """What the checker wrote, None when time ran out."""
    deadline = time.monotonic() + seconds
    data: bytes | None = job
    while True:
        try:
            return checker.communicate(data, timeout=min(LOOK_SECONDS, max(0.01, deadline - time.monotonic())))[0]
        except subprocess.TimeoutExpired:
            data = None  # it is being written
            if stop is not None and stop.is_set():
                raise Stopped from None
            if time.monotonic() >= deadline:
                return None


def _verdict(answer: bytes, program: subprocess.Popen[bytes], checker: subprocess.Popen[bytes]) -> Verdict:
    """What the two ends mean."""
    if not answer:
        if _cpu_time_ended(checker):
            return Verdict(TIMED_OUT)
        raise EnvironmentFault("sandbox", f"the checker ended without a verdict (exit code {checker.returncode}).", fix="run it again.")
    try:
        result = str(json.loads(answer)["result"])[:LONGEST_VERDICT]
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentFault("sandbox", "the checker was cut off within its verdict.", fix="run it again.") from error
    if result != PASSED and _cpu_time_ended(program):
        return Verdict(TIMED_OUT)
    return Verdict(result)


def _cpu_time_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process was ended by its CPU limit; bubblewrap gives a signal as 128 and its number."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(LOOK_SECONDS)
    return process.returncode is not None and any(process.returncode in (-number, 128 + number) for number in KILLED)


@contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A pipe: its end to read, its end to write."""
    out, into = os.pipe()
    with os.fdopen(out, "rb", buffering=0) as read_end, os.fdopen(into, "wb", buffering=0) as write_end:
        yield read_end, write_end


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """At the end the whole session of a process is killed, and the process waited for."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
