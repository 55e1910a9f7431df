"""Ctrl-C waits for the end of a step, and is not lost."""

import signal
import threading

import pytest

from mindformers_codellama.train.interrupts import interrupts_held


@pytest.fixture(autouse=True)
def _both_signals_are_keyboard_interrupts():
    def handle(number, frame):
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) is handle
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_signal_comes_after_the_last_line_of_the_step(number):
    done = []

    def step():
        with interrupts_held():
            signal.raise_signal(number)
            done.append("rest of the step")

    with pytest.raises(KeyboardInterrupt) as raised:
        step()
    assert done == ["rest of the step"]
    assert raised.value.args == (number,)


def test_without_a_signal_nothing_happens_and_an_error_passes_through():
    with interrupts_held():
        pass
    with pytest.raises(ZeroDivisionError), interrupts_held():
        raise ZeroDivisionError


def test_in_another_thread_handlers_are_left_alone():
    seen = []

    def work():
        with interrupts_held():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
