"""Ctrl-C and SIGTERM wait until a step is whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

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
