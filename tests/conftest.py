"""What every test needs."""

import logging

import pytest


@pytest.fixture(autouse=True)
def quiet_logging_setup():
    """The package's logger as it is before any command, whatever commands of other tests and of fixtures did: `caplog` sees its
    lines, and a command of the test writes to the test's own stderr.
    """
    _forget_handlers()
    yield
    _forget_handlers()


def _forget_handlers() -> None:
    logger = logging.getLogger("mindformers_codellama")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
