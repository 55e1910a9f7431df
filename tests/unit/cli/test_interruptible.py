"""Ctrl-C while MindSpore compiles comes when it has compiled; a second one at once. MindSpore is a stand-in of the same names."""

import os
import signal
import time

import pytest

from mindformers_codellama.cli.interrupts import WAITING, interruptible

SOURCE = """
def compile(work):
    work()
    done.append(True)
"""


@pytest.fixture
def mindspore():
    """Its `compile`, and whether it came to its end."""
    done = []
    names = {"done": done}
    exec(compile(SOURCE, "/site-packages/mindspore/graph/api.py", "exec"), names)
    return names["compile"], done


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def wait():
    until = time.monotonic() + 10
    while time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_one_waits_for_the_graph(mindspore, capfd, number):
    compile_graph, done = mindspore
    seen = []

    def command():
        compile_graph(lambda: interrupt(number))
        seen.extend(done)
        wait()

    with pytest.raises(KeyboardInterrupt), interruptible():
        command()
    assert seen
    assert WAITING in capfd.readouterr().err


def test_the_second_one_does_not(mindspore):
    compile_graph, done = mindspore
    with pytest.raises(KeyboardInterrupt), interruptible():
        compile_graph(lambda: (interrupt(), interrupt()))
    assert not done


def test_elsewhere_it_comes_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGINT)


def test_what_ends_before_the_next_look_is_left_in_peace(mindspore):
    """No signal comes after the context."""
    compile_graph, _ = mindspore
    with interruptible():
        compile_graph(interrupt)
    time.sleep(0.3)
