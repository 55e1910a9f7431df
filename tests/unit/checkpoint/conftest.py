"""Toy weights by MindFormers' names, made with numpy; grouped heads (K < N) so that q and k cannot be confused."""

import ml_dtypes
import numpy as np
import pytest

from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes
from mindformers_codellama.config.model_config import ModelConfig

TOY = ModelConfig(
    vocab_size=48,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=40,
    seq_length=64,
    max_position=64,
    rope_theta=1e6,
)


@pytest.fixture
def toy():
    return TOY


@pytest.fixture
def toy_weights():
    def make(dtype="float32", config=TOY, seed=0):
        rng = np.random.default_rng(seed)
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        return {name: rng.standard_normal(shape).astype(kind) for name, shape in expected_shapes(Sizes.of(config)).items()}

    return make
