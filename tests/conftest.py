"""What every test needs."""

import gc
import logging

import pytest


def pytest_sessionstart():
    """Garbage is not looked for while tests are imported: what is made then stays."""
    gc.disable()


def pytest_collection_finish():
    """What there is by now is never looked through again: MindSpore collects garbage with every graph it compiles, which among these
    700,000 objects took 0.4 s each time.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def quiet_logging_setup():
    """The package's logger as it is before any command, whatever commands of other tests and of fixtures did: `caplog` sees its
    lines, and a command of the test writes to the test's own stderr.
    """
    _forget_handlers()
    yield
    _forget_handlers()


@pytest.fixture
def nothing_chosen(monkeypatch):
    """Kernels are chosen anew, whatever an earlier test chose, and none stay chosen."""
    from mindformers_codellama.kernels import choose  # which imports MindSpore

    monkeypatch.delenv("CODELLAMA_KERNELS", raising=False)
    monkeypatch.setattr(choose, "_PROCESS", choose._Process())


def _forget_handlers() -> None:
    logger = logging.getLogger("mindformers_codellama")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
