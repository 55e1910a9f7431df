"""Names: counted against the contract's list, inverted, and compared with the network's own table."""

import pytest

from mindformers_codellama.checkpoint.weight_map import (
    HF,
    META,
    Sizes,
    expected_shapes,
    is_dropped,
    is_training_state,
    to_ours,
    to_theirs,
)
from mindformers_codellama.config.families import FAMILIES
from mindformers_codellama.layout.parameters import parameter_shapes


@pytest.mark.parametrize("rules", [HF, META], ids=["hf", "meta"])
def test_every_rule_goes_both_ways_and_no_two_rules_meet(rules):
    theirs = [rule.theirs.format(i=17) for rule in rules]
    ours = [to_ours(name, rules) for name in theirs]
    assert [to_theirs(name, rules) for name in ours] == theirs
    assert len(set(theirs)) == len(set(ours)) == len(rules) == 12


def test_the_names_of_the_contract():
    pairs = {
        "model.embed_tokens.weight": "model.tok_embeddings.embedding_weight",
        "model.layers.3.self_attn.q_proj.weight": "model.layers.3.attention.wq.weight",
        "model.layers.3.self_attn.o_proj.weight": "model.layers.3.attention.wo.weight",
        "model.layers.3.mlp.gate_proj.weight": "model.layers.3.feed_forward.w1.weight",
        "model.layers.3.mlp.down_proj.weight": "model.layers.3.feed_forward.w2.weight",
        "model.layers.3.mlp.up_proj.weight": "model.layers.3.feed_forward.w3.weight",
        "model.layers.3.input_layernorm.weight": "model.layers.3.attention_norm.weight",
        "model.layers.3.post_attention_layernorm.weight": "model.layers.3.ffn_norm.weight",
        "model.norm.weight": "model.norm_out.weight",
        "lm_head.weight": "lm_head.weight",
    }
    assert {name: to_ours(name) for name in pairs} == pairs
    assert to_ours("model.layers.3.self_attn.q_proj.bias") is None
    assert to_ours("layers.10.attention.wq.weight", META) == "model.layers.10.attention.wq.weight"


@pytest.mark.parametrize("name", list(FAMILIES))
def test_shapes_equal_those_the_network_is_built_with(name):
    """`parameter_shapes` is written apart from the weight map; both describe the same checkpoint."""
    config = FAMILIES[name].config
    assert expected_shapes(Sizes.of(config)) == parameter_shapes(config)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_sizes_are_recognised_from_shapes_alone(name):
    sizes = Sizes.of(FAMILIES[name].config)
    assert Sizes.found_in(expected_shapes(sizes)) == sizes


def test_what_is_left_out_on_purpose():
    assert is_dropped("model.layers.0.self_attn.rotary_emb.inv_freq")
    assert is_dropped("rope.freqs")
    assert is_dropped("model.layers.1.attention.kvcache_mgr.key_past")
    assert not is_dropped("model.layers.0.self_attn.q_proj.weight")
    assert is_training_state("adam_m.model.norm_out.weight")
    assert is_training_state("global_step")
    assert not is_training_state("model.norm_out.weight")
