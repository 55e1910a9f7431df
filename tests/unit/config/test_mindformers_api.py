"""MindFormers' configuration classes, used as its scripts use them."""

from pathlib import Path

import pytest

from mindformers_codellama import (
    ContextConfig,
    LlamaConfig,
    MindFormerConfig,
    ParallelContextConfig,
    TransformerOpParallelConfig,
    str2bool,
)
from mindformers_codellama.config.read import read_run
from mindformers_codellama.config.sections import ContextSection, ParallelConfigSection, ParallelSection
from mindformers_codellama.errors import ConfigError, Findings

PREDICT = Path(__file__).resolve().parents[3] / "configs/codellama/predict_codellama_tiny.yaml"


def test_the_lines_of_predict_custom_give_a_model_configuration():
    """The statements of MindFormers' predict_custom.py between its imports and its tokenizer."""
    config = MindFormerConfig(str(PREDICT))
    assert config.use_parallel is False
    assert (config.context.device_target, config.parallel.parallel_mode) == ("CPU", 1)
    model_config = LlamaConfig(**config.model.model_config)
    model_config.parallel_config = TransformerOpParallelConfig(**config.parallel_config)
    model_config.batch_size = 2
    model_config.use_past = True
    model_config.seq_length = 512
    model_config.checkpoint_name_or_path = ""
    assert f"config is: {model_config}".startswith("config is: LlamaConfig {\n")
    assert '"seq_length": 512' in str(model_config)
    assert (model_config.max_decode_length, model_config.do_sample, model_config.top_k, model_config.top_p) == (256, False, 5, 1.0)
    assert model_config.model_config().seq_length == 512
    assert model_config.generation_config().use_past is True
    assert model_config.parallel_config.section() == ParallelConfigSection()


def test_a_llama_config_without_changes_is_the_yaml_files_model():
    config, run = MindFormerConfig(PREDICT), read_run(PREDICT)
    facade = LlamaConfig(**config.model.model_config)
    assert facade.model_config() == run.model.config
    assert facade.generation_config() == run.model.generation


def test_keys_left_out_read_as_none_and_sections_as_empty(write):
    config = MindFormerConfig(write("seed: 3\n"))
    assert (config.seed, config.load_checkpoint, dict(config.parallel_config), config.model.model_config.seq_length) == (3, None, {}, None)
    assert TransformerOpParallelConfig(**config.parallel_config).data_parallel == 1


def test_names_no_configuration_has_are_errors_unlike_in_mindformers(write):
    config = MindFormerConfig(write("seed: 3\n"))
    with pytest.raises(AttributeError, match="no configuration has 'use_paralel'; did you mean 'use_parallel'"):
        _ = config.use_paralel
    with pytest.raises(ConfigError, match=r"run.yaml:1: sead: unknown key"):
        MindFormerConfig(write("sead: 3\n"))


def test_a_mapping_can_be_changed_and_read_either_way():
    config = MindFormerConfig({"model": {"model_config": {"seq_length": 4}}}, seed=1)
    config.model.model_config.seq_length = 8
    config["run_mode"] = "eval"
    assert config.to_dict() == {"model": {"model_config": {"seq_length": 8}}, "seed": 1, "run_mode": "eval"}
    del config.seed
    assert config.seed is None


def test_llama_config_refuses_misspelt_and_mistyped_settings():
    with pytest.raises(ConfigError, match=r"LlamaConfig.n_kv_head: unknown attribute. Fix: did you mean n_kv_heads\?"):
        LlamaConfig(n_kv_head=8)
    config = LlamaConfig()
    with pytest.raises(ConfigError, match=r"did you mean use_past\?"):
        config.use_pst = True
    with pytest.raises(Findings, match="2 problems"):
        LlamaConfig(num_heads="x", vocab_size=1.5).model_config()
    with pytest.raises(ConfigError, match="n_kv_heads: got 3, must divide num_heads"):
        LlamaConfig(n_kv_heads=3).model_config()
    with pytest.raises(ConfigError, match="use_paged_attention: got True, not available"):
        LlamaConfig(use_paged_attention=True).model_config()


def test_llama_config_from_the_registry_or_a_file():
    config = LlamaConfig.from_pretrained("codellama_34b")
    assert (config.n_kv_heads, config.theta, config.model_config().intermediate_size) == (8, 1e6, 22016)
    assert LlamaConfig.from_pretrained(PREDICT).vocab_size == 2048
    with pytest.raises(ConfigError, match=r"did you mean codellama_7b\?"):
        LlamaConfig.from_pretrained("codellama_7")


def test_the_other_classes_give_their_sections():
    assert ContextConfig(device_target="CPU", mode=1).section() == ContextSection(device_target="CPU", mode=1)
    assert ParallelContextConfig(parallel_mode="DATA_PARALLEL").section() == ParallelSection(parallel_mode=0)
    with pytest.raises(ConfigError, match="context.device_target: got 'GPU'"):
        ContextConfig(device_target="GPU").section()


@pytest.mark.parametrize(("text", "value"), [("True", True), ("false", False), ("1", True), ("no", False), (True, True)])
def test_str2bool_reads_what_people_type(text, value):
    assert str2bool(text) is value


def test_str2bool_refuses_the_rest():
    with pytest.raises(ConfigError, match="got 'maybe'. Fix: True or False."):
        str2bool("maybe")
