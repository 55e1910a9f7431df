"""Logits beside the real MindFormers on the same `.ckpt` files, written by either side.

Bound: 2e-5 of the largest logit. Both compute in float32 with the same MindSpore operators; MindFormers adds its
mask of -10000 to scores and repeats heads in memory. Measured: see docs/numerics.md.
"""

import dataclasses

import mindspore as ms
import numpy as np
import pytest

from mindformers_codellama.checkpoint.load import load_into
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.pipelines.causal_lm import LlamaForCausalLM

pytestmark = pytest.mark.mindformers
pytest.importorskip("mindformers", reason="needs the [mindformers] extra")

BOUND = 2e-5
LENGTH = 24
CONFIG = ModelConfig(
    vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=48,
    seq_length=LENGTH, max_position=LENGTH, rope_theta=1e6,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindFormers writes ./output/log
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


def their_network(config):
    from mindformers.models.llama import LlamaConfig
    from mindformers.models.llama import LlamaForCausalLM as Theirs

    types = dict.fromkeys(("compute_dtype", "softmax_compute_type", "rotary_dtype", "layernorm_compute_type", "param_init_type"), "float32")
    network = Theirs(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            n_kv_heads=config.num_kv_heads,
            intermediate_size=config.intermediate_size,
            seq_length=LENGTH,
            theta=config.rope_theta,
            extend_method=config.extend_method,
            scaling_factor=config.scaling_factor,
            rms_norm_eps=config.rms_norm_eps,
            max_position_embedding=config.max_position,
            use_past=False,
            use_rope_slice=True,
            fused_rms_norm=False,
            use_flash_attention=False,
            **types,
        )  # fmt: skip
    )
    return network.set_train(False)


def their_logits(network, ids):
    return network(ms.Tensor(ids))[0].asnumpy().reshape(len(ids), LENGTH, -1)


def relative_error(found, wanted):
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def make_ids():
    return np.random.default_rng(4).integers(1, CONFIG.vocab_size, (2, LENGTH)).astype(np.int32)


def spread(network):
    """Larger weights than MindFormers begins with, so that every part of the network matters; ours or theirs."""
    rng = np.random.default_rng(8)
    for parameter in network.trainable_params():
        values = rng.standard_normal(parameter.shape) * 0.2 + (parameter.ndim == 1)
        parameter.set_data(ms.Tensor(values.astype(np.float32)))


@pytest.mark.parametrize("num_kv_heads", [4, 2])
@pytest.mark.parametrize("theta", [1e6, 1e4])
def test_a_file_written_by_mindformers_gives_their_logits_here(tmp_path, num_kv_heads, theta):
    config = dataclasses.replace(CONFIG, num_kv_heads=num_kv_heads, rope_theta=theta)
    theirs, ids = their_network(config), make_ids()
    spread(theirs)
    ms.save_checkpoint(theirs, str(tmp_path / "theirs.ckpt"))
    wanted = their_logits(theirs, ids)
    ours = LlamaForCausalLM(config, checkpoint=tmp_path / "theirs.ckpt")
    error = relative_error(ours(ms.Tensor(ids)).asnumpy(), wanted)
    print(f"K {num_kv_heads}, theta {theta:g}: {error:.1e}")
    assert error < BOUND


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_a_file_written_here_gives_our_logits_in_mindformers(tmp_path, num_kv_heads):
    config = dataclasses.replace(CONFIG, num_kv_heads=num_kv_heads)
    ours, ids = LlamaNetwork(config), make_ids()
    spread(ours)
    ms.save_checkpoint(ours, str(tmp_path / "ours.ckpt"))
    theirs = their_network(config)
    not_loaded, unknown = ms.load_param_into_net(theirs, ms.load_checkpoint(str(tmp_path / "ours.ckpt")))
    assert (not_loaded, unknown) == ([], [])
    assert relative_error(their_logits(theirs, ids), ours(ms.Tensor(ids)).asnumpy()) < BOUND


def test_padding_is_hidden_as_mindformers_hides_it():
    ids = make_ids()
    ids[0, 15:], ids[1, 3:5] = 0, 0
    theirs, ours = their_network(CONFIG), LlamaNetwork(CONFIG)
    spread(ours)
    ms.load_param_into_net(theirs, ours.parameters_dict())
    real = ids != 0
    assert relative_error(ours(ms.Tensor(ids)).asnumpy()[real], their_logits(theirs, ids)[real]) < BOUND


@pytest.mark.parametrize("method", ["PI", "NTK"])
def test_longer_contexts_are_reached_as_in_mindformers(method):
    config = dataclasses.replace(CONFIG, extend_method=method, scaling_factor=2.0)
    theirs, ours, ids = their_network(config), LlamaNetwork(config), make_ids()
    spread(ours)
    ms.load_param_into_net(theirs, ours.parameters_dict())
    assert relative_error(ours(ms.Tensor(ids)).asnumpy(), their_logits(theirs, ids)) < BOUND


def test_another_theta_exceeds_the_bound(tmp_path):
    theirs, ids = their_network(CONFIG), make_ids()
    spread(theirs)
    ms.save_checkpoint(theirs, str(tmp_path / "theirs.ckpt"))
    ours = LlamaNetwork(dataclasses.replace(CONFIG, rope_theta=1e4))
    load_into(ours, tmp_path / "theirs.ckpt")
    assert relative_error(ours(ms.Tensor(ids)).asnumpy(), their_logits(theirs, ids)) > 100 * BOUND


def test_names_and_shapes_are_those_of_mindformers():
    theirs = {parameter.name: tuple(parameter.shape) for parameter in their_network(CONFIG).trainable_params()}
    assert theirs == parameter_shapes(CONFIG)
    ours = LlamaNetwork(CONFIG)
    init_parameters(ours, 0)
    assert {parameter.name: tuple(parameter.shape) for parameter in ours.get_parameters()} == theirs
