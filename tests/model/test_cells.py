"""Each Cell against numpy in float64.

Bound 2e-6 of the largest value: float32 rounds at 6e-8, and the longest sum here has 48 terms.
"""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from llama_numpy import attention, feed_forward, logits_of_row, relative_error, rms_norm, rotate_head

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.model.attention import Attention, additive_mask
from mindformers_codellama.model.feed_forward import FeedForward
from mindformers_codellama.model.initial import init_parameters, initial_value
from mindformers_codellama.model.linear import Embedding, Linear
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import TokenLoss
from mindformers_codellama.model.norm import RMSNorm
from mindformers_codellama.model.rope import RotaryTable, rotary_angles, rotate

pytestmark = pytest.mark.usefixtures("graph_mode")
BOUND = 2e-6


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def fill(cell):
    """Random weights of a sensible size; as a dict by name."""
    for parameter in cell.get_parameters():
        parameter.set_data(ms.Tensor(random(*parameter.shape) * 0.2 + (parameter.ndim == 1)))
    return {name: parameter.asnumpy().astype(np.float64) for name, parameter in cell.parameters_and_names()}


def test_linear_multiplies_by_the_transposed_weight_and_adds_its_bias():
    cell = Linear(24, 40, compute_dtype=ms.float32, param_dtype=ms.float32, has_bias=True)
    weights = fill(cell)
    x = random(2, 5, 24)
    assert relative_error(cell(ms.Tensor(x)).asnumpy(), x.astype(np.float64) @ weights["weight"].T + weights["bias"]) < BOUND


def test_embedding_gives_the_rows_of_the_ids():
    cell = Embedding(11, 8, compute_dtype=ms.float32, param_dtype=ms.float32)
    weights = fill(cell)
    ids = np.array([[0, 10, 3], [3, 3, 1]], np.int32)
    assert np.array_equal(cell(ms.Tensor(ids)).asnumpy(), weights["embedding_weight"][ids].astype(np.float32))


def test_norm_divides_by_the_root_mean_square():
    cell = RMSNorm(32, eps=1e-5, norm_dtype=ms.float32, param_dtype=ms.float32)
    weights = fill(cell)
    x = random(2, 5, 32) * 1e-3  # small enough that eps matters
    assert relative_error(cell(ms.Tensor(x)).asnumpy(), rms_norm(x.astype(np.float64), weights["weight"], 1e-5)) < BOUND


def test_rotation_turns_pairs_of_the_two_halves(toy_config):
    x = random(1, 20, 3, toy_config.head_dim)
    cos, sin = RotaryTable(toy_config, positions=20)(20)
    found = rotate(ms.Tensor(x), cos, sin).asnumpy()
    wanted = np.stack([rotate_head(x[0, :, head].astype(np.float64), np.arange(20), 1e6) for head in range(3)], 1)
    assert relative_error(found[0], wanted) < BOUND


def test_rotation_at_position_ids_is_that_of_those_rows_of_the_table(toy_config):
    table = RotaryTable(toy_config, positions=20)
    cos, sin = table(20)
    ids = np.array([[4, 0, 19], [7, 7, 1]], np.int32)
    cos_at, sin_at = table(3, ms.Tensor(ids))
    assert np.array_equal(cos_at.asnumpy()[:, :, 0], cos.asnumpy()[0, :, 0][ids])
    assert np.array_equal(sin_at.asnumpy()[:, :, 0], sin.asnumpy()[0, :, 0][ids])


def test_pi_reads_every_fourth_angle_and_ntk_multiplies_the_base(toy_config):
    plain = rotary_angles(toy_config, 32)
    stretched = rotary_angles(dataclasses.replace(toy_config, extend_method="PI", scaling_factor=4.0), 128)
    assert np.allclose(stretched[::4], plain, rtol=1e-6)
    ntk = rotary_angles(dataclasses.replace(toy_config, extend_method="NTK", scaling_factor=4.0), 32)
    assert np.array_equal(ntk, rotary_angles(dataclasses.replace(toy_config, rope_theta=4e6), 32))


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_attention_is_grouped_and_causal(toy_config, num_kv_heads):
    config = dataclasses.replace(toy_config, num_kv_heads=num_kv_heads)
    cell = Attention(config)
    weights = fill(cell)
    x, visible = random(2, 20, 32), np.tril(np.ones((1, 20, 20), bool))
    cos, sin = RotaryTable(config, positions=20)(20)
    found = cell(ms.Tensor(x), cos, sin, additive_mask(ms.Tensor(visible), ms.float32)).asnumpy()
    named = {f"a.{name}": value for name, value in weights.items()}
    wanted = [attention(row.astype(np.float64), named, "a", config, np.arange(20), visible[0]) for row in x]
    assert relative_error(found, wanted) < BOUND


def test_feed_forward_is_gated_by_silu(toy_config):
    cell = FeedForward(toy_config)
    weights = fill(cell)
    x = random(2, 5, 32)
    wanted = feed_forward(x.astype(np.float64), {f"f.{name}": value for name, value in weights.items()}, "f")
    assert relative_error(cell(ms.Tensor(x)).asnumpy(), wanted) < BOUND


def test_network_is_the_numpy_one(toy_config, toy_ids):
    network = LlamaNetwork(toy_config)
    weights = fill(network)
    found = network(ms.Tensor(toy_ids)).asnumpy()
    assert relative_error(found, [logits_of_row(row, weights, toy_config) for row in toy_ids]) < 5e-6  # two layers of 48-term sums


@pytest.mark.parametrize("place", [0, 17])
def test_pad_tokens_are_not_seen_by_others(toy_config, toy_ids, place):
    network = LlamaNetwork(toy_config)
    weights = fill(network)
    toy_ids[:, place : place + 3] = toy_config.pad_token_id
    found = network(ms.Tensor(toy_ids)).asnumpy()
    real = np.flatnonzero(toy_ids[0])
    wanted = [logits_of_row(row[real], weights, toy_config, positions=real) for row in toy_ids]
    assert relative_error(found[:, real], wanted) < 5e-6


def test_loss_is_the_weighted_mean_of_the_contract():
    logits, tokens = random(2, 6, 13), np.array([[3, 4, 5, 6, 0, 0], [1, 2, 3, 4, 5, 6]], np.int32)
    labels = np.array([[4, 5, 6, 2, 0, 0], [-100, -100, 4, 5, 6, 7]], np.int32)
    weight = ((tokens != 0) & (labels != -100)).astype(np.float64)
    exact = logits.astype(np.float64)
    log_probs = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_probs, np.maximum(labels, 0)[..., None], -1)[..., 0]
    total, count = TokenLoss(0, -100)(ms.Tensor(logits), ms.Tensor(tokens), ms.Tensor(labels))
    assert float(count) == weight.sum() == 8
    assert abs(float(total) / (losses * weight).sum() - 1) < BOUND


def test_loss_without_labels_is_zero_and_not_nan():
    logits, tokens = random(1, 4, 13), np.array([[3, 4, 5, 6]], np.int32)
    total, count = TokenLoss(0, -100)(ms.Tensor(logits), ms.Tensor(tokens), ms.Tensor(np.full((1, 4), -100, np.int32)))
    assert (float(total), float(count)) == (0.0, 0.0)


def test_initial_weights_depend_on_name_and_seed_only(toy_config):
    small, large = LlamaNetwork(toy_config), LlamaNetwork(dataclasses.replace(toy_config, num_layers=3))
    init_parameters(small, 7)
    init_parameters(large, 7)
    theirs = dict(large.parameters_and_names())
    for name, parameter in small.parameters_and_names():
        assert np.array_equal(parameter.asnumpy(), theirs[name].asnumpy()), name
    name = "model.layers.0.attention.wq.weight"
    assert not np.array_equal(initial_value(name, (32, 32), 7), initial_value(name, (32, 32), 8))
    assert not np.array_equal(initial_value(name, (32, 32), 7), initial_value(name.replace("wq", "wk"), (32, 32), 7))


def test_qkv_biases_exist_only_when_asked_for(toy_config):
    names = {name for name, _ in LlamaNetwork(dataclasses.replace(toy_config, qkv_has_bias=True)).parameters_and_names()}
    assert {name for name in names if name.endswith(".bias")} == {
        f"model.layers.{layer}.attention.{which}.bias" for layer in range(2) for which in ("wq", "wk", "wv")
    }
    assert not any(name.endswith(".bias") for name, _ in LlamaNetwork(toy_config).parameters_and_names())


def test_a_head_of_odd_size_is_refused_by_the_configuration():
    with pytest.raises(Exception, match="rotary embedding needs an even one"):
        ModelConfig(hidden_size=12, num_heads=4, num_kv_heads=4)
