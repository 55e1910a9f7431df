"""`LlamaForCausalLM`: prompts in every form, options, weights from files."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest

from mindformers_codellama.checkpoint.convert import convert
from mindformers_codellama.config.mindformers_api import LlamaConfig
from mindformers_codellama.errors import CheckpointError, ConfigError, Findings, GenerationError, TokenizerError
from mindformers_codellama.kernels.choose import kernels_in_use, plain_operators
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.pipelines.causal_lm import LlamaForCausalLM, strip_pads

SETTINGS = {
    "vocab_size": 97, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "n_kv_heads": 2, "intermediate_size": 48, "seq_length": 40,
    "compute_dtype": "float32", "param_init_type": "float32", "use_past": True, "do_sample": False, "max_decode_length": 12,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    model = LlamaForCausalLM(LlamaConfig(**SETTINGS))
    init_parameters(model, 3, std=0.2)
    model.set_train(False)
    yield model
    ms.set_context(mode=before)


def same(found, wanted):
    return len(found) == len(wanted) and all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_options_come_from_the_configuration(model):
    (answer,) = model.generate([5, 6, 7])
    assert answer.dtype == np.int32
    assert answer.ndim == 1
    assert list(answer[:3]) == [5, 6, 7]
    assert len(answer) == 12 or answer[-1] == 2


def test_every_form_of_the_same_prompts_gives_the_same_answers(model):
    wanted = model.generate([[5, 6, 7], [8, 9, 10, 11]])
    right, left = np.array([[5, 6, 7, 0], [8, 9, 10, 11]]), np.array([[0, 5, 6, 7], [8, 9, 10, 11]])
    assert same(model.generate(right), wanted)
    assert same(model.generate(left), wanted)
    assert same(model.generate(ms.Tensor(right, ms.int32)), wanted)
    assert same(model.generate([np.array([5, 6, 7]), np.array([8, 9, 10, 11, 0, 0])]), wanted)
    assert same([model.generate(np.array(row))[0] for row in ([5, 6, 7], [8, 9, 10, 11])], wanted)


@pytest.mark.skipif(not kernels_in_use(), reason="no kernels: the model is refused earlier")
def test_bfloat16_without_a_cache_is_refused_before_mindspore_fails():
    narrow = LlamaForCausalLM(LlamaConfig(**SETTINGS | {"compute_dtype": "bfloat16"}))
    assert len(narrow.generate([5, 6, 7])[0]) > 3
    with pytest.raises(ConfigError, match="use_past is False. Fix: write use_past: True"):
        narrow.generate([5, 6, 7], use_past=False)


def test_use_past_gives_the_same_tokens_as_reading_everything_again(model):
    rng = np.random.default_rng(0)
    prompts = [list(rng.integers(3, 97, length)) for length in (1, 9, 30)]
    for options in ({}, {"do_sample": True, "top_k": 20, "seed": 4}, {"num_beams": 3}, {"repetition_penalty": 1.3}):
        cached = model.generate(prompts, max_length=40, use_past=True, **options)
        assert same(model.generate(prompts, max_length=40, use_past=False, **options), cached), options


def test_seed_decides_what_is_drawn(model):
    draw = {"do_sample": True, "top_k": 0, "max_length": 30, "temperature": 2.0}
    assert same(model.generate([5], seed=1, **draw), model.generate([5], seed=1, **draw))
    assert not same(model.generate([5], seed=1, **draw), model.generate([5], seed=2, **draw))
    assert same(model.generate([5], **draw), model.generate([5], seed=0, **draw))


def test_a_generation_config_replaces_the_models_options(model):
    other = model.generation.updated(max_length=6)
    assert len(model.generate([5, 6], other)[0]) <= 6
    assert len(model.generate([5, 6], {"max_new_tokens": 1})[0]) == 3
    assert len(model.generate([5, 6], other, max_new_tokens=2)[0]) <= 4


def test_logits_processors_see_each_row_and_have_the_last_word(model):
    seen = []

    def always_first_token(ids, logits):
        seen.append(ids.copy())
        return np.where(np.arange(97) == ids[0, 0], 1e3, logits)

    answers = model.generate([[5, 6, 7], [9]], max_length=5, logits_processor=[always_first_token])
    assert [list(answer) for answer in answers] == [[5, 6, 7, 5, 5], [9, 9, 9, 9, 9]]
    assert [list(ids[0]) for ids in seen[:4]] == [[5, 6, 7], [9], [5, 6, 7, 5], [9, 9]]
    with pytest.raises(GenerationError, match=r"gave logits of shape \(97,\), must be \(1, 97\)"):
        model.generate([5], logits_processor=lambda ids, logits: logits[0])


def test_longer_than_the_model_is_clipped_with_a_warning(model, caplog):
    answers = model.generate([[5, 6, 7]], max_length=1000, eos_token_id=96)
    assert len(answers[0]) == 40 or answers[0][-1] == 96
    assert "the model has 40 positions" in caplog.text


def test_a_prompt_without_room_for_an_answer_is_refused(model):
    with pytest.raises(GenerationError, match="has 12 tokens, max_length is 12"):
        model.generate(list(range(3, 15)))
    with pytest.raises(GenerationError, match="has 40 tokens"):
        model.generate(list(range(3, 43)), max_length=1000)


def test_what_is_no_row_of_ids_is_refused(model):
    with pytest.raises(GenerationError, match="must be a row of whole numbers"):
        model.generate([[5.5, 6.0]])
    with pytest.raises(GenerationError, match="must be a row of whole numbers"):
        model.generate(["text"])
    for wrong in ({"input_ids": [5]}, 5, None, np.int32(5), np.array(5)):
        with pytest.raises(GenerationError, match="input_ids: must be rows of token ids"):
            model.generate(wrong)
    with pytest.raises(TokenizerError, match="token id 97"):
        model.generate([[97]])


def test_pads_are_stripped_at_both_ends_only():
    assert strip_pads(np.array([0, 0, 5, 0, 6, 0]), 0, 1) == [5, 0, 6]
    assert strip_pads(np.array([1, 1, 5, 1]), 1, 1) == [1, 1, 5]
    assert strip_pads(np.array([0, 0]), 0, 1) == []


def test_a_checkpoint_written_by_mindspore_loads_both_ways(model, tmp_path):
    ms.save_checkpoint(model, str(tmp_path / "m.ckpt"))
    wanted = model.generate([5, 6, 7])
    loaded = LlamaForCausalLM(LlamaConfig(**SETTINGS, checkpoint_name_or_path=str(tmp_path / "m.ckpt")))
    assert same(loaded.generate([5, 6, 7]), wanted)
    fresh = LlamaForCausalLM(LlamaConfig(**SETTINGS), seed=9)
    fresh.generate([5, 6, 7])
    assert ms.load_param_into_net(fresh, ms.load_checkpoint(str(tmp_path / "m.ckpt"))) == ([], [])
    assert same(fresh.generate([5, 6, 7]), wanted)


def test_from_pretrained_reads_a_yaml_beside_a_checkpoint(model, tmp_path):
    ms.save_checkpoint(model, str(tmp_path / "m.ckpt"))
    lines = ["context: {device_target: CPU}", "model:", "  arch: {type: LlamaForCausalLM}", "  model_config:", "    type: LlamaConfig"]
    lines += [f"    {key}: {value}" for key, value in SETTINGS.items()]
    (tmp_path / "m.yaml").write_text("\n".join(lines) + "\n")
    assert same(LlamaForCausalLM.from_pretrained(tmp_path).generate([5, 6, 7]), model.generate([5, 6, 7]))


def test_names_and_paths_without_weights_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is the name of a model; its weights are not shipped"):
        LlamaForCausalLM.from_pretrained("codellama_7b")
    with pytest.raises(CheckpointError, match="does not exist"):
        LlamaForCausalLM.from_pretrained(tmp_path / "nothing.ckpt")


def test_bfloat16_is_refused_on_the_cpu_with_all_keys_and_the_reason():
    with plain_operators(), pytest.raises(Findings) as raised:
        LlamaForCausalLM(LlamaConfig(**{**SETTINGS, "compute_dtype": "bfloat16", "param_init_type": "bfloat16"}))
    assert "model.model_config.compute_dtype: got 'bfloat16'; MindSpore's CPU backend has no bfloat16 matrix product" in str(raised.value)
    assert "write param_init_type: float32 (or float16)" in str(raised.value)


def test_a_wrong_configuration_is_refused_at_birth():
    with pytest.raises(ConfigError, match="n_kv_heads: got 3"):
        LlamaForCausalLM(LlamaConfig(**{**SETTINGS, "n_kv_heads": 3}))


def test_a_checkpoint_that_says_other_heads_is_refused_and_another_base_is_told(model, tmp_path, caplog):
    ms.save_checkpoint(model, str(tmp_path / "m.ckpt"))
    same_shapes = dataclasses.replace(model.config, num_heads=8, num_kv_heads=4)
    convert(tmp_path / "m.ckpt", tmp_path / "heads", to="hf", config=same_shapes)
    told = r"(?s)has num_heads 8, the model 4: weights of the same shapes, but another model.*num_kv_heads 4, the model 2"
    with pytest.raises(Findings, match=told):
        LlamaForCausalLM(model.config, checkpoint=tmp_path / "heads")
    other_base = dataclasses.replace(model.config, rope_theta=model.config.rope_theta * 100)
    convert(tmp_path / "m.ckpt", tmp_path / "base", to="hf", config=other_base)
    with caplog.at_level("WARNING"):
        LlamaForCausalLM(other_base, checkpoint=tmp_path / "base")
        assert not caplog.records
        LlamaForCausalLM(model.config, checkpoint=tmp_path / "base")
    assert f"was trained with rope_theta {other_base.rope_theta}, the model computes with {model.config.rope_theta}" in caplog.text


@pytest.mark.parametrize("key", ["softmax_compute_type", "layernorm_compute_type", "rotary_dtype", "compute_dtype"])
def test_another_type_anywhere_decodes_with_plain_operators(key, caplog):
    model = LlamaForCausalLM(LlamaConfig(**SETTINGS | {key: "float16"}))
    with caplog.at_level("INFO"):
        model.decoder(use_past=True)
    assert f"plain MindSpore operators: {key} is float16" in caplog.text
