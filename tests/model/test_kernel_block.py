"""The network by the C++ kernels against the same network in plain operators: loss and every gradient.

float32 bound 1e-5 of the largest value of each gradient: both paths round at 6e-8 in sums of up to 2 x 40 x 97 terms, in other
orders. bfloat16 rounds operands at 4e-3 (8 bits); over the two layers and both directions about twenty such roundings meet
like a random walk: 4e-3 * sqrt(20) = 2e-2 of a gradient's norm is expected, 6e-2 allowed; a wrong factor gives 0.5 and more.
"""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from llama_numpy import relative_error

from mindformers_codellama.config.sections import RecomputeConfigSection
from mindformers_codellama.errors import CodeLlamaError
from mindformers_codellama.kernels.choose import choose_kernels, plain_operators
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.kernels import kernel_findings, uses_kernels
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import LossSums, TrainingLoss
from mindformers_codellama.train.recompute import recompute

FLOAT32_BOUND, BFLOAT16_BOUND = 1e-5, 6e-2


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    monkeypatch.delenv("CODELLAMA_KERNELS", raising=False)
    if choose_kernels() is None:
        pytest.skip("the kernel library cannot be used")


def make_network(config):
    network = LlamaNetwork(config)
    init_parameters(network, 1, std=0.2)
    return network


def packed_batch(vocab_size):
    """Two rows of 40 tokens and one more: two samples, padding, and labels that are not predicted."""
    rng = np.random.default_rng(5)
    ids = rng.integers(1, vocab_size, (2, 41)).astype(np.int32)
    segments, positions = np.zeros_like(ids), np.tile(np.arange(41, dtype=np.int32), (2, 1))
    segments[0, 17:], positions[0, 17:] = 1, np.arange(24)
    ids[1, 33:] = 0
    labels = ids.copy()
    labels[:, 5:9] = -100
    return tuple(ms.Tensor(column) for column in (ids, labels, segments, positions))


def loss_and_gradients(network, batch):
    loss = TrainingLoss(network)
    value, gradients = ms.value_and_grad(loss, None, loss.trainable_params())(*batch)
    return float(value), {p.name: gradient.asnumpy() for p, gradient in zip(loss.trainable_params(), gradients, strict=True)}


def plain_run(config, batch):
    with plain_operators():
        return loss_and_gradients(make_network(config), batch)


@pytest.fixture(scope="module")
def graph_runs():
    """Results of `plain_run` in graph mode by the number of columns, each made once."""
    return {}


def plain_graph_run(config, batch, runs):
    if len(batch) not in runs:
        runs[len(batch)] = plain_run(config, batch)
    return runs[len(batch)]


def norm_distance(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_loss_and_gradients_equal_the_plain_path(graph_mode, graph_runs, toy_config, columns):
    batch = packed_batch(toy_config.vocab_size)[:columns]
    loss, gradients = loss_and_gradients(make_network(toy_config), batch)
    wanted_loss, wanted = plain_graph_run(toy_config, batch, graph_runs)
    assert abs(loss - wanted_loss) < 1e-6 * wanted_loss
    for name, gradient in gradients.items():
        assert relative_error(gradient, wanted[name]) < FLOAT32_BOUND, name


def test_pynative_gives_the_same_gradients(eager_mode, toy_config):
    batch = packed_batch(toy_config.vocab_size)
    (loss, gradients), (wanted_loss, wanted) = loss_and_gradients(make_network(toy_config), batch), plain_run(toy_config, batch)
    assert abs(loss - wanted_loss) < 1e-6 * wanted_loss
    assert all(relative_error(gradient, wanted[name]) < FLOAT32_BOUND for name, gradient in gradients.items())


def test_bfloat16_stays_within_the_rounding_of_its_operands(graph_mode, graph_runs, toy_config):
    batch = packed_batch(toy_config.vocab_size)
    config = dataclasses.replace(toy_config, compute_dtype="bfloat16")
    loss, gradients = loss_and_gradients(make_network(config), batch)
    wanted_loss, wanted = plain_graph_run(toy_config, batch, graph_runs)
    assert 1e-6 * wanted_loss < abs(loss - wanted_loss) < 1e-2 * wanted_loss
    for name, gradient in gradients.items():
        assert gradient.dtype == np.float32
        assert norm_distance(gradient, wanted[name]) < BFLOAT16_BOUND, name


@pytest.mark.slow
def test_another_eps_in_one_norm_exceeds_the_bound(graph_mode, graph_runs, toy_config):
    batch = packed_batch(toy_config.vocab_size)
    network = make_network(toy_config)
    network.model.layers[0].kernel_block.attention_input.eps = ms.Tensor([1e-2], ms.float32)
    (_, gradients), (_, wanted) = loss_and_gradients(network, batch), plain_graph_run(toy_config, batch, graph_runs)
    assert max(relative_error(gradient, wanted[name]) for name, gradient in gradients.items()) > 100 * FLOAT32_BOUND


def test_evaluation_has_the_loss_of_training_in_chunks(graph_mode, toy_config):
    batch = packed_batch(toy_config.vocab_size)
    network = make_network(toy_config)
    with plain_operators():
        wanted = LossSums(make_network(toy_config))(*batch)
    found, trained = LossSums(network, gradients=False)(*batch), LossSums(network)(*batch)
    assert float(found[1]) == float(trained[1]) == float(wanted[1])
    assert abs(float(found[0]) - float(wanted[0])) < 1e-6 * float(wanted[0])
    assert abs(float(trained[0]) - float(wanted[0])) < 1e-6 * float(wanted[0])


def test_logits_equal_the_plain_path(graph_mode, toy_config, toy_ids):
    found = make_network(toy_config)(ms.Tensor(toy_ids)).asnumpy()
    with plain_operators():
        wanted = make_network(toy_config)(ms.Tensor(toy_ids)).asnumpy()
    assert relative_error(found, wanted) < 2e-6


def test_recompute_has_no_effect_and_says_so(toy_config, caplog):
    network = make_network(toy_config)
    recompute(network, RecomputeConfigSection(recompute=True))
    assert "has no effect with the kernels" in caplog.text
    assert not any(cell.get_flags().get("recompute") for _, cell in network.cells_and_names())


def test_types_and_biases_the_kernels_do_not_have_are_computed_plainly(toy_config):
    assert uses_kernels(toy_config)
    assert uses_kernels(dataclasses.replace(toy_config, compute_dtype="bfloat16"))
    for change in (
        {"compute_dtype": "float16"},
        {"param_init_dtype": "float16"},
        {"softmax_compute_dtype": "float16"},
        {"qkv_has_bias": True},
    ):
        assert not uses_kernels(dataclasses.replace(toy_config, **change)), change


def messages(config):
    return "\n".join(str(finding) for finding in kernel_findings(config))


def test_bfloat16_without_kernels_or_with_what_they_lack_is_refused_with_the_fix(toy_config):
    config = dataclasses.replace(toy_config, compute_dtype="bfloat16")
    assert kernel_findings(config) == []
    with plain_operators():
        assert "compute_dtype: got 'bfloat16'" in messages(config)
        assert "or compute with the kernels (kernels: auto)" in messages(config)
    assert "softmax_compute_type: got 'float16'; with compute_dtype: bfloat16 on the CPU only float32" in messages(
        dataclasses.replace(config, softmax_compute_dtype="float16")
    )
    assert "qkv_has_bias: got True; the kernels" in messages(dataclasses.replace(config, qkv_has_bias=True))
    assert all(isinstance(finding, CodeLlamaError) for finding in kernel_findings(dataclasses.replace(config, qkv_has_bias=True)))
