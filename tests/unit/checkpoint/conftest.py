"""Toy weights by MindFormers' names, made with numpy; grouped heads (K < N) so that q and k cannot be confused."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mindformers_codellama.checkpoint.hf_config import hf_config
from mindformers_codellama.checkpoint.quantize import quantize_checkpoint
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes, to_theirs
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


@pytest.fixture
def hf(tmp_path, toy, toy_weights):
    """A Hugging Face directory; sizes that fill neither tiles nor groups."""

    def make(dtype="float32", config=toy, name="hf"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        save_file({to_theirs(key): value for key, value in toy_weights(dtype, config).items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(hf_config(config, dtype)))
        (folder / "tokenizer.model").write_bytes(b"pieces")
        return folder

    return make


@pytest.fixture
def packed(tmp_path, hf):
    """A directory of packed weights made of it."""

    def make(scheme="w8", **options):
        target = tmp_path / scheme
        quantize_checkpoint(hf(), target, scheme=scheme, **options)
        return target

    return make
