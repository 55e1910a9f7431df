"""The same numbers in graph mode, PyNative and ms.jit; packed rows; recomputation; input ranges."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from llama_numpy import relative_error

from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.loss import LossSums, TrainingLoss

BOUND = 2e-6  # the same float32 operators; their order may differ


def make_network(config, seed=1):
    network = LlamaNetwork(config)
    init_parameters(network, seed, std=0.2)
    return network


def loss_and_gradients(network, ids):
    loss = TrainingLoss(network)
    value, gradients = ms.value_and_grad(loss, None, loss.trainable_params())(ms.Tensor(ids))
    return float(value), [gradient.asnumpy() for gradient in gradients]


def test_pynative_graph_and_jit_agree(request, both_paths, toy_config, toy_ids):
    request.getfixturevalue("graph_mode")
    network = make_network(toy_config)
    graph, (loss, gradients) = network(ms.Tensor(toy_ids)).asnumpy(), loss_and_gradients(network, toy_ids)
    request.getfixturevalue("eager_mode")
    eager = make_network(toy_config)
    assert relative_error(eager(ms.Tensor(toy_ids)).asnumpy(), graph) < BOUND
    assert relative_error(ms.jit(eager.construct)(ms.Tensor(toy_ids)).asnumpy(), graph) < BOUND
    eager_loss, eager_gradients = loss_and_gradients(eager, toy_ids)
    assert abs(eager_loss - loss) < 1e-6 * abs(loss)
    for parameter, found, wanted in zip(network.trainable_params(), eager_gradients, gradients, strict=True):
        assert relative_error(found, wanted) < 2e-5, parameter.name  # gradients add up over rows and positions


@pytest.mark.slow
def test_recomputed_blocks_give_the_same_gradients(graph_mode, both_paths, toy_config, toy_ids):
    loss, gradients = loss_and_gradients(make_network(toy_config), toy_ids)
    network = make_network(toy_config)
    network.recompute_blocks([1])
    again_loss, again = loss_and_gradients(network, toy_ids)
    assert again_loss == loss
    assert all(relative_error(found, wanted) < BOUND for found, wanted in zip(again, gradients, strict=True))


def pack(samples, length):
    """One row (1, length) each of ids, segments and positions."""
    ids, segments, positions = (np.zeros((1, length), np.int32) for _ in range(3))
    start = 0
    for number, sample in enumerate(samples, 1):
        place = slice(start, start + len(sample))
        ids[0, place], segments[0, place], positions[0, place] = sample, number, np.arange(len(sample))
        start += len(sample)
    return ids, segments, positions


def padded(samples, length):
    """A row of its own for every sample, padded at the right."""
    return np.stack([np.pad(sample, (0, length - len(sample))) for sample in samples])


def test_packed_rows_equal_separate_rows(graph_mode, both_paths, toy_config, toy_ids):
    network = make_network(toy_config)
    samples = [toy_ids[0, :7], toy_ids[1, :11], toy_ids[0, 7:20]]
    ids, segments, positions = pack(samples, 40)
    packed = network(ms.Tensor(ids), ms.Tensor(positions), ms.Tensor(segments)).asnumpy()[0]
    blind, *separate = network(ms.Tensor(np.concatenate([ids, padded(samples, 40)]))).asnumpy()
    start = 0
    for sample, row in zip(samples, separate, strict=True):
        alone = row[: len(sample)]
        assert relative_error(packed[start : start + len(sample)], alone) < BOUND
        if start:
            assert relative_error(blind[start : start + len(sample)], alone) > 100 * BOUND  # without segments they leak
        start += len(sample)


def test_packed_loss_is_the_sum_over_its_samples(graph_mode, toy_config, toy_ids):
    sums = LossSums(make_network(toy_config))
    samples = [toy_ids[0, :7], toy_ids[1, :11]]
    ids, segments, positions = (ms.Tensor(array) for array in pack(samples, 24))
    total, count = sums(ids, None, segments, positions)
    rows = padded(samples, 24)
    separate, separate_count = sums(ms.Tensor(rows), ms.Tensor(np.where(rows, rows, -100)))  # else the first pad is trained on
    assert float(count) == float(separate_count) == 6 + 10
    assert abs(float(total) - float(separate)) < 2e-6 * float(total)


def test_labels_are_shifted_by_one_and_masked_ones_do_not_count(graph_mode, both_paths, toy_config, toy_ids):
    sums = LossSums(make_network(toy_config))
    labels = toy_ids.copy()
    labels[:, :8] = -100
    whole, masked = sums(ms.Tensor(toy_ids), ms.Tensor(toy_ids)), sums(ms.Tensor(toy_ids), ms.Tensor(labels))
    assert (float(whole[1]), float(masked[1])) == (2 * 19, 2 * 12)
    assert 0 < float(masked[0]) < float(whole[0])


def test_the_mean_divides_by_the_weight_plus_epsilon(graph_mode, toy_config, toy_ids):
    network = make_network(toy_config)
    total, count = (float(value) for value in LossSums(network)(ms.Tensor(toy_ids)))
    assert abs(float(TrainingLoss(network)(ms.Tensor(toy_ids))) - total / (count + 1e-5)) < 1e-6


def test_parameter_names_stay_those_of_the_checkpoint_inside_a_loss(toy_config):
    network = LlamaNetwork(toy_config)
    names = [parameter.name for parameter in network.get_parameters()]
    assert [parameter.name for parameter in TrainingLoss(network).get_parameters()] == names
    assert names[0] == "model.tok_embeddings.embedding_weight"
    assert names[-1] == "lm_head.weight"


def test_parameters_are_held_in_the_type_asked_for(toy_config):
    config = dataclasses.replace(toy_config, param_init_dtype="float16", compute_dtype="float16")
    types = {name: str(parameter.dtype) for name, parameter in LlamaNetwork(config).parameters_and_names()}
    assert types["model.layers.0.attention.wq.weight"] == "Float16"
    assert types["model.norm_out.weight"] == "Float32"  # MindFormers keeps norms in float32
