"""The sandbox of this machine; tests that need one are skipped where there is none."""

import pytest

from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.evaluation.sandbox import open_sandbox


@pytest.fixture(scope="session")
def sandbox():
    try:
        return open_sandbox()
    except EnvironmentFault as error:
        pytest.skip(str(error))
