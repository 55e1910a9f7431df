"""Logits against transformers' LlamaForCausalLM (torch, CPU, float32), through the real loader.

Bound: 2e-5 of the largest logit. Both sides round at 6e-8 in sums of up to 172 terms over three layers;
measured values are in docs/numerics.md. Every mistake seeded below is at least a hundred times over the bound.
Equality is tested in graph mode, in plain operators and with the kernels;
the rest runs in PyNative, which starts faster (test_network_modes.py: they agree).
"""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from llama_numpy import relative_error
from mindspore import ops

from mindformers_codellama.checkpoint.load import load_into
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.kernels.choose import plain_operators
from mindformers_codellama.model.attention import additive_mask
from mindformers_codellama.model.llama import LlamaNetwork

torch = pytest.importorskip("torch", reason="the reference is torch with transformers: pip install .[test]")
transformers = pytest.importorskip("transformers")

BOUND = 2e-5
LENGTH = 48
SIZES = {"vocab_size": 257, "hidden_size": 64, "num_layers": 3, "num_heads": 8, "intermediate_size": 172}


def save_reference(folder, *, num_kv_heads, theta, scaling=None):
    """A random torch model written by `save_pretrained`; its logits and the ids they belong to."""
    torch.manual_seed(11)
    config = transformers.LlamaConfig(
        vocab_size=SIZES["vocab_size"], hidden_size=SIZES["hidden_size"], num_hidden_layers=SIZES["num_layers"],
        num_attention_heads=SIZES["num_heads"], num_key_value_heads=num_kv_heads, intermediate_size=SIZES["intermediate_size"],
        max_position_embeddings=LENGTH, rope_theta=theta, rope_scaling=scaling, rms_norm_eps=1e-5, tie_word_embeddings=False,
        initializer_range=0.12, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        ids = torch.randint(1, SIZES["vocab_size"], (2, LENGTH))
        logits = model(ids).logits.numpy()
    model.save_pretrained(folder)
    return ids.numpy().astype(np.int32), logits


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """(folder, ids, logits) of the grouped model with Code Llama's theta."""
    folder = tmp_path_factory.mktemp("hf")
    return folder, *save_reference(folder, num_kv_heads=2, theta=1e6)


def our_logits(folder, ids, *, kind=LlamaNetwork, config=None, change=None):
    """Logits of our network with the weights in `folder`; `change` edits the weights."""
    network = kind(config or open_checkpoint(folder).config)
    load_into(network, folder)
    if change is not None:
        for name, parameter in network.parameters_and_names():
            parameter.set_data(ms.Tensor(np.ascontiguousarray(change(name, parameter.asnumpy().copy()))))
    return network(ms.Tensor(ids)).asnumpy()


@pytest.mark.parametrize(("num_kv_heads", "theta"), [(8, 1e4), (2, 1e6), (1, 1e6)])
def test_logits_equal_transformers(graph_mode, both_paths, tmp_path, num_kv_heads, theta):
    ids, wanted = save_reference(tmp_path, num_kv_heads=num_kv_heads, theta=theta)
    config = open_checkpoint(tmp_path).config
    assert (config.num_kv_heads, config.rope_theta) == (num_kv_heads, theta)
    assert relative_error(our_logits(tmp_path, ids), wanted) < BOUND


def test_position_interpolation_equals_linear_scaling_of_transformers(eager_mode, tmp_path):
    ids, wanted = save_reference(tmp_path, num_kv_heads=2, theta=1e6, scaling={"rope_type": "linear", "factor": 4.0})
    assert open_checkpoint(tmp_path).config.extend_method == "PI"
    assert relative_error(our_logits(tmp_path, ids), wanted) < BOUND


def test_ntk_equals_transformers_with_the_multiplied_base(eager_mode, tmp_path):
    ids, wanted = save_reference(tmp_path, num_kv_heads=2, theta=4e6)
    config = dataclasses.replace(open_checkpoint(tmp_path).config, rope_theta=1e6, extend_method="NTK", scaling_factor=4.0)
    assert relative_error(our_logits(tmp_path, ids, config=config), wanted) < BOUND


def test_a_wrong_theta_exceeds_the_bound(eager_mode, reference):
    folder, ids, wanted = reference
    config = dataclasses.replace(open_checkpoint(folder).config, rope_theta=1e4)
    assert relative_error(our_logits(folder, ids, config=config), wanted) > 100 * BOUND


def heads_taken_in_turn(name, weight):
    """As if query head n read key head n % K: the query heads in the order that makes it so."""
    order = np.arange(8).reshape(4, 2).T.ravel()
    if name.endswith("wq.weight"):
        return weight.reshape(8, 8, 64)[order].reshape(64, 64)
    if name.endswith("wo.weight"):
        return weight.reshape(64, 8, 8)[:, order].reshape(64, 64)
    return weight


def test_heads_repeated_in_turn_exceed_the_bound(eager_mode, reference):
    folder, ids, wanted = reference
    assert relative_error(our_logits(folder, ids, change=heads_taken_in_turn), wanted) > 100 * BOUND


def neighbouring_pairs(name, weight):
    """As if the rotation took neighbouring pairs, Meta's layout."""
    if name.endswith(("wq.weight", "wk.weight")):
        return weight.reshape(-1, 4, 2, 64).swapaxes(1, 2).reshape(weight.shape)
    return weight


def test_rotation_of_neighbouring_pairs_exceeds_the_bound(eager_mode, reference):
    folder, ids, wanted = reference
    assert relative_error(our_logits(folder, ids, change=neighbouring_pairs), wanted) > 100 * BOUND


class SeesOneAhead(LlamaNetwork):
    """A mask that is off by one; in plain operators, where there is one."""

    def __init__(self, config):
        with plain_operators():
            super().__init__(config)

    def mask(self, input_ids_BS, segment_ids_BS):
        length = input_ids_BS.shape[1]
        order_S = ops.arange(length)
        visible_1ST = ops.reshape(order_S, (1, 1, length)) <= ops.reshape(order_S, (1, length, 1)) + 1
        return additive_mask(visible_1ST, self.mask_dtype)


def test_a_mask_off_by_one_exceeds_the_bound(eager_mode, reference):
    folder, ids, wanted = reference
    assert relative_error(our_logits(folder, ids, kind=SeesOneAhead), wanted) > 100 * BOUND


def test_float16_stays_within_its_own_rounding(eager_mode, reference):
    """Bound 1e-2 of the largest logit.

    float16 rounds at 5e-4; three layers round about a dozen times each on the residual stream, which adds up
    like a random walk: sqrt(36) * 5e-4 = 3e-3. Measured 3.1e-3. Softmax, norm and rotation stay in float32.
    """
    folder, ids, wanted = reference
    config = dataclasses.replace(open_checkpoint(folder).config, compute_dtype="float16", param_init_dtype="float16")
    error = relative_error(our_logits(folder, ids, config=config), wanted)
    assert 1e-4 < error < 1e-2


def test_the_configuration_is_that_of_the_directory(reference):
    config = open_checkpoint(reference[0]).config
    assert config == ModelConfig(**SIZES, num_kv_heads=2, seq_length=LENGTH, max_position=LENGTH, rope_theta=1e6)
