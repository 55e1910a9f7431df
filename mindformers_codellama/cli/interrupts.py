"""Ctrl-C while MindSpore computes, and while it is imported.

MindSpore (2.9 and 2.10) has a handler of its own for SIGINT while a graph is compiled or run: it sends SIGTERM to its
own process, which would end a program without a word. So SIGTERM means here what Ctrl-C means; it is noticed when
MindSpore gives control back, after one token or one step.

While MindSpore compiles, an exception in the middle becomes an error of its own, with a traceback and a file
`rank_0/om/analyze_fail.ir` in the current folder. So Ctrl-C waits until the graph is compiled; a second one does not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODE = 130
STOPPED = "codellama: stopped."
WAITING = "codellama: stopping when the graph is compiled; Ctrl-C again stops at once."
LOOK = 0.1
"""Seconds between two looks whether MindSpore is still compiling."""

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def interruptible() -> Iterator[None]:
    """While open, SIGTERM raises KeyboardInterrupt as Ctrl-C does. Outside the main thread, which alone hears signals, nothing changes.

    While MindSpore is imported, either ends the process at once: half built, MindSpore aborts at a normal exit. While it compiles,
    the first one waits.
    """
    looks: list[Timer] = []
    due: list[bool] = []

    def look_again() -> None:
        due.append(True)
        os.kill(os.getpid(), signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        if _imports_mindspore():
            os.write(2, f"{STOPPED}\n".encode())
            os._exit(EXIT_CODE)
        own = bool(due) and due.pop()
        if not _compiles(frame) or (looks and not own):
            raise KeyboardInterrupt
        if not looks:
            os.write(2, f"{WAITING}\n".encode())
        looks.append(Timer(LOOK, look_again))
        looks[-1].daemon = True
        looks[-1].start()

    with _handled(SIGNALS if current_thread() is main_thread() else (), handle):
        try:
            yield
        finally:
            for look in looks:
                look.cancel()


@contextmanager
def stopping_on_interrupt() -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C asks the answer to stop; a second one is a KeyboardInterrupt."""
    asked: list[bool] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    with _handled(SIGNALS, handle):
        yield lambda: bool(asked)


@contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handle: Handler) -> Iterator[None]:
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _imports_mindspore() -> bool:
    return bool(getattr(getattr(sys.modules.get("mindspore"), "__spec__", None), "_initializing", False))


def _compiles(frame: FrameType | None) -> bool:
    """Whether MindSpore compiles a graph somewhere below a frame."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "compile" and code.co_filename.endswith("api.py") and "mindspore" in code.co_filename:
            return True
        frame = frame.f_back
    return False
