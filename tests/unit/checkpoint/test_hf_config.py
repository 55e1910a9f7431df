"""transformers is the oracle where it is installed; the rest is literal JSON as published."""

import dataclasses
import json

import pytest

from mindformers_codellama.checkpoint.hf_config import end_token_ids, hf_config, read_hf_config
from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.errors import CheckpointError, Findings

CODE_LLAMA_34B = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 8192,
    "intermediate_size": 22016,
    "max_position_embeddings": 16384,
    "model_type": "llama",
    "num_attention_heads": 64,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}


def read(tmp_path, values):
    (tmp_path / "config.json").write_text(json.dumps(values))
    return read_hf_config(tmp_path / "config.json")


def test_the_published_34b_config_gives_the_registry_row(tmp_path):
    config, tied = read(tmp_path, CODE_LLAMA_34B)
    assert config == dataclasses.replace(FAMILIES["codellama_34b"].config, seq_length=16384)
    assert not tied


def test_rope_theta_of_transformers_5_is_read(tmp_path):
    values = {k: v for k, v in CODE_LLAMA_34B.items() if k not in ("rope_theta", "rope_scaling")}
    assert read(tmp_path, values | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})[0].rope_theta == 5e5
    assert read(tmp_path, values)[0].rope_theta == 1e4  # transformers' own default
    linear = read(tmp_path, values | {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}})[0]
    assert (linear.extend_method, linear.scaling_factor) == ("PI", 4.0)


def test_old_configs_without_kv_heads_and_with_lists_of_eos(tmp_path):
    values = {k: v for k, v in CODE_LLAMA_34B.items() if k != "num_key_value_heads"} | {"eos_token_id": [2, 32015], "pad_token_id": None}
    config = read(tmp_path, values)[0]
    assert (config.num_kv_heads, config.eos_token_id, config.pad_token_id) == (64, 2, 0)


def test_models_this_network_cannot_compute_are_refused_with_every_reason(tmp_path):
    bad = {"model_type": "mistral", "hidden_act": "gelu", "attention_bias": True, "head_dim": 256, "rope_scaling": {"rope_type": "llama3"}}
    with pytest.raises(Findings) as caught:
        read(tmp_path, CODE_LLAMA_34B | bad)
    text = str(caught.value)
    for key in ("model_type", "hidden_act", "attention_bias", "head_dim", "rope_scaling"):
        assert f"config.json: {key}:" in text


def test_damaged_configs_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_hf_config(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"vocab_size: is missing"):
        read(tmp_path, {k: v for k, v in CODE_LLAMA_34B.items() if k != "vocab_size"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rms_norm_eps": "a"}, "rms_norm_eps: is 'a', not a number"),
        ({"rope_theta": "1e6"}, "rope_theta: is '1e6', not a number"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings: is 'many', not a whole number above 0"),
        ({"num_key_value_heads": 2.5}, "num_key_value_heads: is 2.5, not a whole number"),
        ({"rope_scaling": {"type": "linear", "factor": "two"}}, "rope_scaling.factor: is 'two', not a number"),
        ({"rope_parameters": "linear"}, "rope_parameters: is 'linear', not a JSON object"),
        ({"hidden_size": 0}, "hidden_size: is 0, not a whole number above 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers: is True, not a whole number above 0"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(tmp_path, values, message):
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, CODE_LLAMA_34B | values)
    assert message in str(caught.value)


def test_end_ids_come_from_the_generation_config_first_and_may_be_several(tmp_path):
    assert end_token_ids(tmp_path) == ()
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert end_token_ids(tmp_path) == (2, 7)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 32015]}))
    assert end_token_ids(tmp_path) == (2, 32015)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
    assert end_token_ids(tmp_path) == (2, 7)
    (tmp_path / "config.json").write_text("damaged")
    assert end_token_ids(tmp_path) == ()


@pytest.mark.parametrize("extend", [("None", 1.0), ("PI", 4.0), ("NTK", 2.0)])
def test_what_we_write_transformers_reads_with_the_same_rotary_angles(tmp_path, extend):
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = dataclasses.replace(FAMILIES["codellama_tiny"].config, extend_method=extend[0], scaling_factor=extend[1])
    (tmp_path / "config.json").write_text(json.dumps(hf_config(config, "float16")))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (theirs.hidden_size, theirs.num_key_value_heads, str(theirs.dtype)) == (192, 2, "torch.float16")
    rotary = modeling.LlamaRotaryEmbedding(theirs)
    theta = config.rope_theta * (2.0 if extend[0] == "NTK" else 1.0)
    divisor = 4.0 if extend[0] == "PI" else 1.0
    expected = [theta ** (-2 * i / 32) / divisor for i in range(16)]
    assert rotary.inv_freq.tolist() == pytest.approx(expected, rel=1e-6)  # float32 table


def test_reading_our_own_config_gives_it_back(tmp_path):
    for facts in FAMILIES.values():
        config = dataclasses.replace(facts.config, seq_length=facts.config.max_position)
        assert read(tmp_path, hf_config(config, "float32"))[0] == config
