"""For tests of the kernels: whether they can run here."""

import pytest

from mindformers_codellama.errors import CodeLlamaError
from mindformers_codellama.kernels import library


def has_kernels() -> bool:
    """Whether the library of the kernels is built and fits this machine."""
    try:
        library.load_library()
    except CodeLlamaError:
        return False
    return True


needs_kernels = pytest.mark.skipif(not has_kernels(), reason="the kernel library is not built")
