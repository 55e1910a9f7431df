"""`FusedDecoder`: shared beginnings, weights that change, packed weights, evaluation. What every decoder does is in test_decoder.py.

Bound of float32: 1e-5 of the largest logit, as between the other two decoders.
"""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from llama_numpy import logits_of_row, relative_error

from mindformers_codellama.backends.fused_decoder import FusedDecoder
from mindformers_codellama.backends.fused_network import FusedNetwork
from mindformers_codellama.backends.fused_rows import PagedRows
from mindformers_codellama.backends.mindspore_decoder import MindSporeDecoder
from mindformers_codellama.backends.packed_model import ROLES, PackedModel, part_names
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.generation.loop import generate
from mindformers_codellama.kernels.choose import plain_operators
from mindformers_codellama.kernels.library import load_library
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.quantization.quantize import pack_weights, unpack_weights

BOUND = 1e-5
CONFIG = ModelConfig(
    vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48,
    seq_length=300, max_position=300, rope_theta=1e6,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def library():
    try:
        load_library()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))


@pytest.fixture
def network():
    network = LlamaNetwork(CONFIG)
    init_parameters(network, 1, std=0.2)
    return network


def test_models_that_differ_in_their_vocabulary_alone_do_not_share_the_shape_of_logits(eager_mode):
    """MindSpore remembers shapes of operators outside of graphs by their name and inputs."""
    prompt = np.array([[1, 5, 6]], np.int32)
    for size in (97, 61):
        network = LlamaNetwork(dataclasses.replace(CONFIG, vocab_size=size))
        init_parameters(network, 1, std=0.2)
        assert FusedDecoder(network).prefill(prompt, np.array([3], np.int32)).shape == (1, size)


def weights_of(network):
    return {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}


def packed(network, form):
    """Packed weights of a network, and what they mean."""
    weights, config = weights_of(network), network.config
    group = 64 if form in ("int8", "int4") else 0
    arrays = {
        "embedding": weights["model.tok_embeddings.embedding_weight"].astype(ml_dtypes.bfloat16).view(np.uint16),
        "norms": np.stack([value for name, value in weights.items() if "norm" in name]),
    }
    order = [f"model.layers.{i}.{name}.weight" for i in range(config.num_layers) for name in ("attention_norm", "ffn_norm")]
    arrays["norms"] = np.stack([weights[name] for name in [*order, "model.norm_out.weight"]])
    meant = dict(weights)
    meant["model.tok_embeddings.embedding_weight"] = arrays["embedding"].view(ml_dtypes.bfloat16).astype(np.float32)
    for role in ROLES:
        layers = []
        for layer in range(1 if role == "head" else config.num_layers):
            parts = []
            for name in part_names(layer, role):
                parts.append(pack_weights(weights[name], form, group))
                meant[name] = unpack_weights(parts[-1])
            layers.append(parts)
        values = np.stack([np.concatenate([part.values for part in parts]) for parts in layers])
        arrays[role] = values.view(np.uint16) if form == "bfloat16" else values
        if group:
            arrays[f"{role}_scales"] = np.stack([np.concatenate([part.scales for part in parts]) for parts in layers]).view(np.uint16)
    return PackedModel(config=config, form=form, group=group, arrays=arrays), meant


def make_tokens(rows, length, seed=0):
    return np.random.default_rng(seed).integers(1, 97, (rows, length)).astype(np.int32)


def lengths(*numbers):
    return np.array(numbers, np.int32)


def test_greedy_text_is_that_of_plain_operators(network):
    options = GenerationConfig(max_new_tokens=40, eos_token_ids=(), pad_token_id=0, bos_token_id=1, use_past=True)
    prompts = [list(make_tokens(1, n, seed=n)[0]) for n in (3, 70, 12)]
    with plain_operators():
        plain = LlamaNetwork(CONFIG)
    init_parameters(plain, 1, std=0.2)
    answers = generate(FusedDecoder(network), prompts, options)
    for found, wanted in zip(answers, generate(MindSporeDecoder(plain), prompts, options), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("form", "bound"), [("bfloat16", 2e-2), ("int8", 1e-1), ("int4", 1e-1)])
def test_packed_weights_give_the_logits_of_what_they_mean(network, form, bound):
    """Inputs rounded to 8 bits differ by 0.6 % of their spread in each of nine products, 1.7 % together; the worst of 1,000 logits is
    three times that, and this network's softmaxes are sharp. Measured 5 %; a wrong scale or row is off by 100 %.
    """
    model, meant = packed(network, form)
    decoder, tokens = FusedDecoder(model), make_tokens(2, 90)
    found = [decoder.prefill(tokens, lengths(80, 9)), *(decoder.step(tokens[:, 80 + i]) for i in range(4))]
    for row, length in enumerate((80, 9)):
        ids = np.concatenate([tokens[row, :length], tokens[row, 80:84]])
        assert relative_error([logits[row] for logits in found], logits_of_row(ids, meant, CONFIG)[length - 1 :]) < bound


@pytest.mark.parametrize("form", ["bfloat16", "int8"])
def test_a_shared_beginning_is_not_read_again_and_gives_the_same_bits(network, form):
    decoder, tokens = FusedDecoder(packed(network, form)[0]), make_tokens(1, 200)
    first = decoder.prefill(tokens, lengths(200))
    assert decoder.tokens_computed == 200
    np.testing.assert_array_equal(decoder.prefill(tokens, lengths(200)), first)
    assert decoder.tokens_computed == 200 + 200 - 192


def test_rows_of_one_batch_share_their_beginning(network):
    decoder, tokens = FusedDecoder(network), make_tokens(3, 150)
    tokens[1:, :130] = tokens[0, :130]
    found = decoder.prefill(tokens, lengths(150, 150, 128))
    # two pages of the second row are known; the third has only these, of which the last is read again for its logits
    assert decoder.tokens_computed == 150 + 22 + 64
    for row, length in enumerate((150, 150, 128)):
        assert relative_error(found[row], logits_of_row(tokens[row, :length], weights_of(network), CONFIG)[-1]) < BOUND


def test_a_prompt_of_known_pages_alone_reads_one_token(network):
    decoder, tokens = FusedDecoder(network), make_tokens(1, 200)
    decoder.prefill(tokens, lengths(200))
    again = decoder.prefill(tokens, lengths(128))
    assert decoder.tokens_computed == 201
    wanted = logits_of_row(tokens[0], weights_of(network), CONFIG)
    assert relative_error(again[0], wanted[127]) < BOUND
    assert relative_error(decoder.step(tokens[:, 128])[0], wanted[128]) < BOUND
    # the shared page was copied, not written
    assert relative_error(decoder.prefill(tokens, lengths(200))[0], wanted[199]) < BOUND


def test_an_answer_is_a_known_beginning_of_the_next_prompt(network):
    decoder, tokens = FusedDecoder(network), make_tokens(1, 140)
    decoder.prefill(tokens, lengths(60))
    for place in range(60, 130):
        decoder.step(tokens[:, place])
    before = decoder.tokens_computed
    found = decoder.prefill(tokens, lengths(140))
    assert decoder.tokens_computed == before + 12
    assert relative_error(found[0], logits_of_row(tokens[0], weights_of(network), CONFIG)[-1]) < BOUND


def test_rows_that_shared_a_page_part_when_they_write(network):
    decoder, tokens = FusedDecoder(network), make_tokens(1, 70)
    decoder.prefill(tokens, lengths(70))
    decoder.reorder(lengths(0, 0, 0))
    steps = make_tokens(5, 3, seed=4)
    found = [decoder.step(row) for row in steps]
    for row in range(3):
        ids = np.concatenate([tokens[0], steps[:, row]])
        assert relative_error([logits[row] for logits in found], logits_of_row(ids, weights_of(network), CONFIG)[70:]) < BOUND


def test_weights_changed_in_place_are_seen_and_drop_known_beginnings(network):
    decoder, tokens = FusedDecoder(network), make_tokens(1, 100)
    decoder.prefill(tokens, lengths(100))
    weight = network.model.layers[0].attention.wk.weight.asnumpy()  # shares the Parameter's memory
    weight[3, 5] += 1.0
    found = decoder.prefill(tokens, lengths(100))
    assert decoder.tokens_computed == 200
    assert relative_error(found[0], logits_of_row(tokens[0], weights_of(network), CONFIG)[-1]) < BOUND


def test_weights_that_an_evaluation_saw_first_drop_known_beginnings_too(network):
    decoder, tokens = FusedDecoder(network), make_tokens(1, 100)
    decoder.prefill(tokens, lengths(100))
    network.model.layers[0].attention.wk.weight.asnumpy()[3, 5] += 1.0
    list(decoder.all_logits(tokens, lengths(3)))
    found = decoder.prefill(tokens, lengths(100))
    assert relative_error(found[0], logits_of_row(tokens[0], weights_of(network), CONFIG)[-1]) < BOUND


def test_a_prefill_without_memory_for_all_rows_leaves_nothing_that_was_not_computed(network, monkeypatch):
    decoder, tokens = FusedDecoder(network), make_tokens(2, 300)
    make = PagedRows._make_pools

    def small(rows, pages):
        if pages > 4:
            raise MemoryError
        make(rows, pages)

    monkeypatch.setattr(PagedRows, "_make_pools", small)
    with pytest.raises(MemoryError):
        decoder.prefill(tokens, lengths(100, 300))
    assert decoder._rows.allocator.held == 0
    found = decoder.prefill(tokens[:1], lengths(100))
    assert relative_error(found[0], logits_of_row(tokens[0, :100], weights_of(network), CONFIG)[-1]) < BOUND


def test_a_failed_step_ends_the_batch(network, monkeypatch):
    """Its token has no keys: what came after would be read with a hole, and found by others."""
    decoder, tokens = FusedDecoder(network), make_tokens(1, 70)
    decoder.prefill(tokens, lengths(63))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FusedNetwork, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decoder.step(tokens[:, 63])
    with pytest.raises(AssertionError, match="one token for every row"):
        decoder.step(tokens[:, 64])
    found = decoder.prefill(tokens, lengths(70))
    assert relative_error(found[0], logits_of_row(tokens[0], weights_of(network), CONFIG)[-1]) < BOUND


def test_all_logits_are_those_of_one_pass(network):
    decoder, tokens = FusedDecoder(network), make_tokens(2, 300)
    found = np.full((2, 300, 97), np.nan)
    for row, start, logits in decoder.all_logits(tokens, lengths(300, 40)):
        found[row, start : start + len(logits)] = logits
    for row, length in enumerate((300, 40)):
        assert relative_error(found[row, :length], logits_of_row(tokens[row, :length], weights_of(network), CONFIG)) < BOUND
    assert np.isnan(found[1, 40:]).all()


def test_an_evaluation_that_was_left_leaves_nothing_behind(network):
    decoder, tokens = FusedDecoder(network), make_tokens(1, 300)
    next(decoder.all_logits(tokens, lengths(300)))
    wanted = logits_of_row(tokens[0], weights_of(network), CONFIG)[-1]
    assert relative_error(decoder.prefill(tokens, lengths(300))[0], wanted) < BOUND


def test_an_evaluation_does_not_go_on_in_the_pages_of_another_batch(network):
    decoder, tokens = FusedDecoder(network), make_tokens(2, 300)
    left = decoder.all_logits(tokens[1:], lengths(300))
    next(left)
    decoder.prefill(tokens[:1], lengths(299))
    with pytest.raises(AssertionError, match="another batch began"):
        next(left)
    wanted = logits_of_row(tokens[0], weights_of(network), CONFIG)[-1]
    assert relative_error(decoder.step(tokens[0, 299:])[0], wanted) < BOUND


def test_extended_positions_use_the_models_table():
    config = dataclasses.replace(CONFIG, extend_method="PI", scaling_factor=2.0)
    network, tokens = LlamaNetwork(config), make_tokens(1, 50)
    init_parameters(network, 1, std=0.2)
    plain = MindSporeDecoder(network).prefill(tokens, lengths(50))
    assert relative_error(FusedDecoder(network).prefill(tokens, lengths(50)), plain) < BOUND
