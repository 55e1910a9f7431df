"""Launchers are told to stop here, also when the tests themselves were started by nohup."""

import signal

import pytest


@pytest.fixture(autouse=True)
def closed_terminals_are_heard():
    """SIGHUP has its usual meaning for processes a test starts: those of a process that ignores it ignore it too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
