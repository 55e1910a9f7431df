"""What every test needs."""

import logging

import pytest


@pytest.fixture(autouse=True)
def quiet_logging_setup():
    """Undo what a command run in this process did to the package's logger, so that `caplog` sees its lines again."""
    logger = logging.getLogger("mindformers_codellama")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate
