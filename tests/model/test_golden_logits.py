"""Logits against numbers written by transformers (tests/golden/make_logits.py), so that no torch is needed.

Bound 2e-5 of the largest logit, as in test_parity.py; runs on every MindSpore, also beside MindFormers.
"""

import importlib.util
import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from llama_numpy import relative_error

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "logits_transformers.json").read_text())
BOUND = 2e-5


def logits_of(case, theta=None):
    config = ModelConfig(
        **GOLDEN["sizes"], num_kv_heads=case["num_kv_heads"], rope_theta=theta or case["rope_theta"], seq_length=64, max_position=64
    )
    network = LlamaNetwork(config)
    init_parameters(network, GOLDEN["seed"], std=GOLDEN["std"])
    return network(ms.Tensor(np.asarray([GOLDEN["ids"]], np.int32))).asnumpy()[0]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"K{case['num_kv_heads']}-theta{case['rope_theta']:g}")
def test_logits_are_those_transformers_wrote_down(eager_mode, case):
    assert relative_error(logits_of(case), case["logits"]) < BOUND


def test_another_theta_is_noticed(eager_mode):
    case = GOLDEN["cases"][-1]
    assert relative_error(logits_of(case, theta=1e4), case["logits"]) > 100 * BOUND


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the generator needs torch and transformers")
def test_the_generator_still_writes_the_same():
    spec = importlib.util.spec_from_file_location("make_logits", FOLDER / "make_logits.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    made = generator.make()
    for old, new in zip(GOLDEN["cases"], made["cases"], strict=True):
        np.testing.assert_allclose(new["logits"], old["logits"], rtol=0, atol=1e-6)  # stored with seven digits
    assert {key: made[key] for key in ("ids", "sizes", "seed", "std")} == {key: GOLDEN[key] for key in ("ids", "sizes", "seed", "std")}
