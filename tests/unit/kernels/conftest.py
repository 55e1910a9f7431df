"""Every kernel test runs at every level this machine has, and is skipped when the library was not built."""

import os

import pytest
from emulated_library import VARIABLE, use_emulated

from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.kernels import library

if os.environ.get(VARIABLE):  # the same tests on another machine's kernels (test_emulated_kernels.py)
    use_emulated(os.environ[VARIABLE].split())


@pytest.fixture(params=["portable", "avx2", "avx512", "neon"])
def level(request):
    """Name of the level in use during the test."""
    try:
        before = library.current_level()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))
    if not library.use_level(request.param):
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    library.use_level(before)
