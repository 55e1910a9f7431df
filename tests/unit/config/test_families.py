"""The model registry against published parameter counts and shapes; no weight is allocated."""

import pytest

from mindformers_codellama.config.check import static_findings
from mindformers_codellama.config.families import FAMILIES, PROMPT_STYLES, model_facts
from mindformers_codellama.config.model_config import round_intermediate_size
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.layout.parameters import parameter_count, parameter_shapes

# Published totals (safetensors index of the Hugging Face repositories): Llama 2 and 34B have 32000 pieces.
# Each of 16 more pieces costs two rows of D: 7B + 131,072, 13B + 163,840, 70B + 262,144.
PUBLISHED = {
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "codellama_7b": 6_738_546_688,
    "codellama_7b_python": 6_738_415_616,
    "codellama_7b_instruct": 6_738_546_688,
    "codellama_13b": 13_016_028_160,
    "codellama_13b_python": 13_015_864_320,
    "codellama_13b_instruct": 13_016_028_160,
    "codellama_34b": 33_743_970_304,
    "codellama_34b_python": 33_743_970_304,
    "codellama_34b_instruct": 33_743_970_304,
    "codellama_70b": 68_976_910_336,
    "codellama_70b_python": 68_976_910_336,
    "codellama_70b_instruct": 68_976_910_336,
    "codellama_tiny": 2_361_024,
    "codellama_demo": 5_048_576,
    "codellama_demo_instruct": 5_048_576,
}


def test_the_registry_holds_twelve_code_llamas_three_llama_2_and_our_own():
    sizes = ("7b", "13b", "34b", "70b")
    code = {f"codellama_{size}{kind}" for size in sizes for kind in ("", "_python", "_instruct")}
    own = {"codellama_tiny", "codellama_demo", "codellama_demo_instruct"}
    assert set(FAMILIES) == code | own | {"llama2_7b", "llama2_13b", "llama2_70b"} == set(PUBLISHED)


@pytest.mark.parametrize("name", FAMILIES)
def test_parameter_count_is_the_published_one(name):
    """Two oracles: the published total, and the sum written out here by hand."""
    config = FAMILIES[name].config
    D, F, V, L = config.hidden_size, config.intermediate_size, config.vocab_size, config.num_layers
    kv = D // config.num_heads * config.num_kv_heads
    by_hand = 2 * V * D + D + L * (2 * D * D + 2 * kv * D + 3 * D * F + 2 * D)
    assert parameter_count(config) == PUBLISHED[name] == by_hand


def test_shapes_of_34b_and_70b_are_those_of_their_checkpoints():
    """Shapes of the safetensors files of CodeLlama-34b-hf and Llama-2-70b-hf, under MindFormers' names."""
    shapes = parameter_shapes(FAMILIES["codellama_34b"].config)
    assert len(shapes) == 48 * 9 + 3
    assert shapes["model.tok_embeddings.embedding_weight"] == shapes["lm_head.weight"] == (32000, 8192)
    assert shapes["model.layers.47.attention.wq.weight"] == shapes["model.layers.47.attention.wo.weight"] == (8192, 8192)
    assert shapes["model.layers.0.attention.wk.weight"] == shapes["model.layers.0.attention.wv.weight"] == (1024, 8192)
    assert shapes["model.layers.0.feed_forward.w1.weight"] == shapes["model.layers.0.feed_forward.w3.weight"] == (22016, 8192)
    assert shapes["model.layers.0.feed_forward.w2.weight"] == (8192, 22016)
    assert shapes["model.layers.0.attention_norm.weight"] == shapes["model.norm_out.weight"] == (8192,)
    assert parameter_shapes(FAMILIES["llama2_70b"].config)["model.layers.79.feed_forward.w2.weight"] == (8192, 28672)


def test_a_name_differs_for_every_layer_and_no_other_model_has_them():
    small, large = (set(parameter_shapes(FAMILIES[name].config)) for name in ("codellama_7b", "codellama_13b"))
    assert small < large
    assert {name.split(".")[2] for name in large - small} == {str(index) for index in range(32, 40)}


def test_infilling_belongs_to_7b_13b_and_70b_base():
    able = {name for name, facts in FAMILIES.items() if facts.can_infill}
    published = {"codellama_7b", "codellama_7b_instruct", "codellama_13b", "codellama_13b_instruct", "codellama_70b"}
    assert {name for name in able if not FAMILIES[name].source.startswith("this project")} == published
    assert all(FAMILIES[name].config.vocab_size == 32016 for name in published), "the four pieces are ids 32007 to 32010"


def test_70b_instruct_and_python_have_the_old_rotary_base_and_positions():
    for name, facts in FAMILIES.items():
        late = name in ("codellama_70b_instruct", "codellama_70b_python") or name.startswith("llama2")
        assert facts.config.rope_theta == (1e4 if late else 1e6), name
        if not facts.source.startswith("this project"):
            assert facts.config.max_position == (4096 if late else 16384), name


def test_stop_ids_and_prompt_styles():
    assert FAMILIES["codellama_70b_instruct"].stop_token_ids == (32015, 2)
    assert FAMILIES["codellama_70b_instruct"].prompt_style == "codellama-70b"
    assert {FAMILIES[f"codellama_{size}_instruct"].prompt_style for size in ("7b", "13b", "34b")} == {"llama2"}
    others = [facts for name, facts in FAMILIES.items() if "instruct" not in name]
    assert {(facts.prompt_style, facts.stop_token_ids) for facts in others} == {("completion", (2,))}
    assert {facts.prompt_style for facts in FAMILIES.values()} == set(PROMPT_STYLES)


def test_feed_forward_widths_follow_the_published_rule():
    rules = {"7b": (4096, 256, None), "13b": (5120, 256, None), "34b": (8192, 256, None), "70b": (8192, 4096, 1.3)}
    for size, rule in rules.items():
        assert FAMILIES[f"codellama_{size}"].config.intermediate_size == round_intermediate_size(*rule)
    assert round_intermediate_size(4096, 256, 1.0) == 11264, "1.0 is not null: Meta's params.json for 7B misleads here"


def test_names_are_found_in_either_spelling_and_refused_with_the_near_one():
    assert model_facts("codellama/CodeLlama-7b-Instruct-hf") is FAMILIES["codellama_7b_instruct"]
    assert model_facts("meta-llama/Llama-2-70b-hf") is FAMILIES["llama2_70b"]
    with pytest.raises(ConfigError, match=r"'codellama_35b' is not in the model registry. Fix: did you mean codellama_34b\?"):
        model_facts("codellama_35b")


def test_the_registry_cannot_be_changed():
    with pytest.raises(TypeError):
        FAMILIES["x"] = FAMILIES["codellama_7b"]  # type: ignore[index]


def test_every_row_names_its_source():
    assert all(len(facts.source) > 20 for facts in FAMILIES.values())
    assert static_findings(RunConfig()) == []
