"""Launchers are told to stop here, also when the tests themselves were started by nohup."""

import signal

import pytest
from launch_case import Launched


@pytest.fixture(autouse=True)
def closed_terminals_are_heard():
    """SIGHUP has its usual meaning for processes a test starts: those of a process that ignores it ignore it too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def launched(tmp_path):
    """A launcher in a folder of its own, with fake ranks."""
    return Launched(tmp_path)
