"""Ctrl-C and SIGTERM wait until a step is whole, with several ranks until all of them are at its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """While open, SIGINT and SIGTERM are only noted; at the end the first one is raised again, as it would have been.

    Between the update on the device and the count of steps a checkpoint (`exception_save`) would hold the weights of
    one step and the place of another. Nothing waits longer for it: Python hears a signal when the device
    gives control back anyway. Outside the main thread, which alone hears signals, nothing changes.
    """
    if current_thread() is not main_thread():
        yield
        return
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        if heard:
            signal.raise_signal(heard[0])


class StopRequests:
    """While open, SIGINT and SIGTERM are only noted, for a loop that tells the other ranks and stops together with them.

    A rank that stopped by itself would leave the others waiting for it. Outside the main thread, which alone hears
    signals, nothing changes.
    """

    def __init__(self) -> None:
        self.heard: list[int] = []
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal was heard."""
        return bool(self.heard)

    def obey(self) -> None:
        """Stop, whichever rank heard the signal. Raised here: sent again, MindSpore's own handler would end the process at once."""
        self._restore()
        raise KeyboardInterrupt

    def __enter__(self) -> StopRequests:
        """Begin to note."""
        if current_thread() is main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        """As before; a signal that came too late for the last step is raised now."""
        self._restore()
        if self.heard and error[0] is None:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.heard.append(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        self._before = {}
