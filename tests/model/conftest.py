"""Toy networks, and MindSpore in graph mode for the tests that ask for it."""

import mindspore as ms
import numpy as np
import pytest

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.runtime.context import enter_context


@pytest.fixture
def graph_mode():
    """Graph mode on the CPU, and the mode that was set before afterwards."""
    before = ms.get_context("mode")
    enter_context(ContextSection(device_target="CPU", mode=0))
    yield
    ms.set_context(mode=before)


@pytest.fixture(params=["off", "auto"], ids=["plain", "kernels"])
def both_paths(request):
    """Cells are built with plain operators, and again with the kernels; `off` or `auto`."""
    if choose_kernels(request.param) is None and request.param == "auto":
        pytest.skip("the kernel library cannot be used")
    yield request.param
    choose_kernels()


@pytest.fixture
def eager_mode():
    """PyNative mode on the CPU, and the mode that was set before afterwards."""
    before = ms.get_context("mode")
    enter_context(ContextSection(device_target="CPU", mode=1))
    yield
    ms.set_context(mode=before)


@pytest.fixture
def toy_config():
    """Grouped heads, theta of Code Llama, sizes that all differ."""
    return ModelConfig(
        vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48,
        seq_length=64, max_position=64, rope_theta=1e6,
    )  # fmt: skip


@pytest.fixture
def toy_ids():
    return np.random.default_rng(3).integers(1, 97, (2, 20)).astype(np.int32)
