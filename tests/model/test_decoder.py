"""Decoders: a cache, reading everything again, or the network kernel is the same model.

Bound 1e-5 of the largest logit: the same float32 sums, cut differently (chunks, cache lengths); measured 1e-6.
"""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from llama_numpy import logits_of_row, relative_error

from mindformers_codellama.backends.fused_decoder import FusedDecoder
from mindformers_codellama.backends.mindspore_decoder import MindSporeDecoder, cache_positions, chunks, row_positions
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import GenerationError, TokenizerError
from mindformers_codellama.generation.protocol import Decoder
from mindformers_codellama.kernels.choose import kernels_in_use
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork

KINDS = ["cached", "uncached"] + ["fused"] * (kernels_in_use() is not None)
BOUND = 1e-5
LENGTHS = np.array([140, 7, 200], np.int32)
STEPS = 64
CONFIG = ModelConfig(
    vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48,
    seq_length=300, max_position=300, rope_theta=1e6,
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    network = LlamaNetwork(CONFIG)
    init_parameters(network, 1, std=0.2)
    yield network
    ms.set_context(mode=before)


@pytest.fixture(scope="module")
def decoders(network):
    """By kind; shared so that every size is compiled once. Each prompt begins anew."""
    made = {"cached": MindSporeDecoder(network), "uncached": MindSporeDecoder(network, use_past=False)}
    return made | ({"fused": FusedDecoder(network)} if "fused" in KINDS else {})


def make_tokens(rows, length, seed=0):
    return np.random.default_rng(seed).integers(1, 97, (rows, length)).astype(np.int32)


def weights_of(network):
    return {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}


def test_chunks_cover_a_prompt_and_only_the_last_reaches_past_it():
    assert chunks(1) == [(0, 32)]
    assert chunks(33) == [(0, 128)]
    assert chunks(300) == [(0, 128), (128, 128), (256, 128)]
    assert chunks(270) == [(0, 128), (128, 128), (256, 32)]


def test_sizes_are_few_and_end_at_the_models_length():
    assert {cache_positions(n, 16384) for n in range(1, 16385, 7)} == {256, 1024, 2048, 4096, 8192, 16384}
    assert cache_positions(257, 300) == 384  # whole chunks
    assert {row_positions(n, 300) for n in range(1, 301)} == {32, 64, 128, 256, 300}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_decoder(decoders, kind):
    assert isinstance(decoders[kind], Decoder)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_steps_equal_one_pass_in_numpy(network, decoders, kind):
    """Unequal rows, a prompt over several chunks, growth of the cache past 256."""
    tokens, more = make_tokens(3, 200), make_tokens(STEPS, 3, seed=1)
    decoder, weights = decoders[kind], weights_of(network)
    found = [decoder.prefill(tokens, LENGTHS)] + [decoder.step(row) for row in more]
    for row, length in enumerate(LENGTHS):
        ids = np.concatenate([tokens[row, :length], more[:, row]])
        wanted = logits_of_row(ids, weights, network.config)[length - 1 :]
        assert relative_error([logits[row] for logits in found], wanted) < BOUND


@pytest.mark.slow
def test_a_position_too_far_exceeds_the_bound(network, decoders):
    """The seeded break of the test above: steps that forget to advance."""
    tokens, decoder = make_tokens(1, 20), decoders["cached"]
    decoder.prefill(tokens, np.array([18], np.int32))
    wanted = logits_of_row(tokens[0, :19], weights_of(network), network.config)[-1]
    decoder._memory.lengths_B = np.array([19], np.int32)
    assert relative_error(decoder.step(tokens[:, 18])[0], wanted) > 100 * BOUND


@pytest.mark.parametrize("kind", KINDS)
def test_reordered_rows_continue_as_the_rows_they_were(network, decoders, kind):
    tokens, lengths = make_tokens(3, 9), np.array([9, 4, 6], np.int32)
    decoder = decoders[kind]
    decoder.prefill(tokens, lengths)
    decoder.reorder(np.array([2, 2, 0], np.int32))
    found = decoder.step(np.array([5, 6, 7], np.int32))
    weights = weights_of(network)
    for row, (source, token) in enumerate(((2, 5), (2, 6), (0, 7))):
        ids = [*tokens[source, : lengths[source]], token]
        assert relative_error(found[row], logits_of_row(ids, weights, network.config)[-1]) < BOUND


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_row_stays_and_does_not_disturb_the_others(network, decoders, kind):
    limit = network.config.seq_length
    tokens, lengths = make_tokens(3, limit), np.array([limit - 1, 5, 5], np.int32)  # as many rows as elsewhere: compiled once
    decoder, more = decoders[kind], make_tokens(4, 3, seed=2)
    decoder.prefill(tokens, lengths)
    found = [decoder.step(row)[1] for row in more]
    wanted = logits_of_row(np.concatenate([tokens[1, :5], more[:, 1]]), weights_of(network), network.config)[5:]
    assert relative_error(found, wanted) < BOUND


@pytest.mark.parametrize("kind", KINDS[1:])
def test_going_on_when_every_row_is_full_is_refused(decoders, kind):
    limit = CONFIG.seq_length
    decoder = decoders[kind]
    decoder.prefill(make_tokens(3, limit), np.full(3, limit, np.int32))
    with pytest.raises(GenerationError, match=f"every row has reached the {limit} tokens"):
        decoder.step(np.ones(3, np.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_longer_than_the_model_is_refused(decoders, kind):
    with pytest.raises(GenerationError, match="prompt 1: has 301 tokens, the model holds 300"):
        decoders[kind].prefill(make_tokens(2, 301), np.array([300, 301], np.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_outside_the_vocabulary_is_refused(decoders, kind):
    decoder = decoders[kind]
    with pytest.raises(TokenizerError, match="token id 97"):
        decoder.prefill(np.array([[1, 97]], np.int32), np.array([2], np.int32))
    decoder.prefill(np.array([[1, 2]], np.int32), np.array([2], np.int32))
    with pytest.raises(TokenizerError, match="token id -1"):
        decoder.step(np.array([-1], np.int32))


def test_padding_ids_inside_a_prompt_are_tokens_like_others(network, decoders):
    """Lengths say what is padding; both ways agree, also where MindFormers' two ways do not."""
    ids = np.array([[5, 0, 0, 6, 0]], np.int32)
    wanted = logits_of_row(ids[0], weights_of(network), network.config)[-1]
    for kind in KINDS:
        assert relative_error(decoders[kind].prefill(ids, np.array([5]))[0], wanted) < BOUND


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_prompt_does_not_see_the_first(network, decoders, kind):
    decoder, weights = decoders[kind], weights_of(network)
    decoder.prefill(make_tokens(1, 30), np.array([30], np.int32))
    ids = make_tokens(1, 4, seed=5)
    found = [decoder.prefill(ids[:, :3], np.array([3], np.int32))[0], decoder.step(ids[:, 3])[0]]
    assert relative_error(found, logits_of_row(ids[0], weights, network.config)[2:]) < BOUND


@pytest.mark.slow
def test_caches_given_up_for_others_are_made_anew(graph_mode, monkeypatch):
    """More batch sizes than graphs are kept for, with growth before and after."""
    network = LlamaNetwork(dataclasses.replace(CONFIG, num_layers=1))
    init_parameters(network, 1, std=0.2)
    monkeypatch.setattr("mindformers_codellama.backends.mindspore_decoder.LANES_KEPT", 2)
    decoder, weights = MindSporeDecoder(network), weights_of(network)
    for rows in (1, 2, 1):
        tokens = make_tokens(rows, 258, seed=rows)
        found = [decoder.prefill(tokens[:, :255], np.full(rows, 255)), *(decoder.step(tokens[:, place]) for place in (255, 256, 257))]
        wanted = logits_of_row(tokens[-1], weights, network.config)[254:]
        assert relative_error([logits[-1] for logits in found], wanted) < BOUND


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "uncached"])
@pytest.mark.parametrize("mode", ["graph_mode", "eager_mode"])
def test_new_weights_are_seen_after_generating_with_old_ones(request, toy_config, mode, kind):
    """In PyNative mode a compiled graph goes on reading replaced weights; the decoder must notice."""
    request.getfixturevalue(mode)
    network, ids = LlamaNetwork(toy_config), make_tokens(1, 5)
    init_parameters(network, 1, std=0.2)
    decoder = FusedDecoder(network) if kind == "fused" else MindSporeDecoder(network)
    old = decoder.prefill(ids, np.array([5], np.int32))
    other = LlamaNetwork(toy_config)
    init_parameters(other, 2, std=0.2)
    ms.load_param_into_net(network, other.parameters_dict())
    new = decoder.prefill(ids, np.array([5], np.int32))
    wanted = logits_of_row(ids[0], weights_of(other), toy_config)[-1]
    assert relative_error(new[0], wanted) < BOUND < relative_error(old[0], wanted)
