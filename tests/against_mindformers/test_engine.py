"""`engine: mindformers` inside one process: MindFormers takes the translation of every shipped file, and its network is ours.

The tables that know MindFormers 1.9 are held against the installed one here: sections and keys against its template,
arguments of classes against their signatures, context keys against what it applies.
"""

import dataclasses
import inspect
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mindformers_codellama.config.read import read_run
from mindformers_codellama.engines.mindformers import require_mindformers
from mindformers_codellama.engines.translate import Found, translate
from mindformers_codellama.model.llama import LlamaNetwork

pytestmark = pytest.mark.mindformers
pytest.importorskip("mindformers.tools", reason="needs the [mindformers] extra")

FILES = sorted(
    path for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml") if not path.stem.endswith(("_lora", "_lora_910b", "_demo"))
)
"""Adapters and products in bfloat16 on a CPU are of the native engine."""
MODES = ["train", "finetune", "eval", "predict"]
READ_BY_DATASETS = {"auto_tune", "filepath_prefix", "autotune_per_step"}
"""Not in MindFormers' template, but `dataset/utils.py` takes them from the top."""
OF_GENERATION = {"max_length", "max_new_tokens", "temperature", "num_beams", "length_penalty", "type"}
"""What `GenerationConfig` takes of a model's configuration, and the name of the class itself."""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindFormers writes ./output/log
    monkeypatch.setenv("LOG_MF_PATH", str(tmp_path / "log"))
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


def translated(path, mode="train"):
    overrides = ["engine=mindformers", "do_eval=True", "train_dataset.input_columns=[input_ids, labels]", "optimizer.type=AdamW"]
    run = dataclasses.replace(read_run(path, overrides=overrides), run_mode=mode)
    return translate(run, Found(weights="w.ckpt", vocab_file="t.model")).values


def names_of(callable_):
    return set(inspect.signature(callable_).parameters) - {"self"}


def registered(module_type, name):
    from mindformers.tools.register import MindFormerRegister

    return MindFormerRegister.get_cls(module_type, name)


def test_the_installed_versions_are_the_ones_the_tables_describe():
    require_mindformers()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_mindformers_takes_every_shipped_file_in_every_mode(path, mode):
    """Its template raises for unknown keys of strict sections; for the others it would only warn, so they are looked up."""
    from mindformers import MindFormerConfig
    from mindformers.core.parallel_config import build_parallel_config
    from mindformers.models.llama import LlamaConfig
    from mindformers.tools.register.template import CONFIG_NAME_TO_CLASS, ConfigTemplate, GeneralConfig

    values = translated(path, mode)
    unknown = set(values) - set(CONFIG_NAME_TO_CLASS) - set(GeneralConfig.keys())
    assert unknown <= READ_BY_DATASETS
    ConfigTemplate.apply_template(values)
    config = MindFormerConfig(**values)
    build_parallel_config(config)
    run = read_run(path, overrides=["engine=mindformers", "train_dataset.input_columns=[input_ids]"])
    sizes = {key: item for key, item in values["model"]["model_config"].items() if key != "type"}
    model = LlamaConfig(parallel_config=config.parallel_config, **sizes)
    ours = run.model.config
    assert (model.hidden_size, model.num_heads, model.theta) == (ours.hidden_size, ours.num_heads, ours.rope_theta)
    assert str(model.compute_dtype).lower().endswith(ours.compute_dtype)
    assert config.parallel_config.model_parallel == run.parallel_config.model_parallel
    assert config.micro_batch_interleave_num == run.micro_batch_interleave_num


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_argument_is_one_the_class_has(path):
    from mindformers.models.llama import LlamaConfig, LlamaTokenizer
    from mindformers.wrapper import MFTrainOneStepCell

    training, prediction = translated(path, "train"), translated(path, "predict")
    assert set(training["model"]["model_config"]) <= names_of(LlamaConfig.__init__) | OF_GENERATION
    assert set(training["runner_wrapper"]) - {"type"} <= names_of(MFTrainOneStepCell.__init__)
    assert training["optimizer"]["type"] == "AdamW"
    assert set(training["optimizer"]) - {"type"} <= names_of(registered("optimizer", "AdamW").get_actual_adamw_cls(False).__init__)
    schedule = training["lr_schedule"]
    unknown = set(schedule) - {"type"} - names_of(registered("lr", schedule["type"]).__init__)
    assert unknown <= {"lr_end", "power", "num_cycles"}, "schedules swallow each other's keys, and only those"
    for callback in training["callbacks"]:
        assert set(callback) - {"type"} <= names_of(registered("callback", callback["type"]).__init__)
    assert set(prediction["processor"]["tokenizer"]) - {"type", "padding_side"} <= names_of(LlamaTokenizer.__init__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_of_context_and_parallel_is_applied(path):
    from mindformers.core.context.build_context import _MSContextApplier
    from mindspore.parallel._auto_parallel_context import _set_auto_parallel_context_func_map as known

    values = translated(path)
    applier = _MSContextApplier()
    assert [key for key in values["context"] if applier.get_category(key) is None] == []
    assert set(values["parallel"]) <= set(known)


SMALL = """
engine: mindformers
context: {device_target: CPU}
model:
  model_config: {vocab_size: 97, hidden_size: 32, num_layers: 2, num_heads: 4, n_kv_heads: 2, intermediate_size: 48,
    seq_length: 24, theta: 1000000.0, compute_dtype: float32, softmax_compute_type: float32, rotary_dtype: float32,
    param_init_type: float32, EXTRA}
"""


@pytest.mark.parametrize("extra", ["use_past: False", "extend_method: NTK, scaling_factor: 2.0", "max_position_embedding: 48"])
def test_mindformers_network_made_from_our_yaml_gives_our_logits(tmp_path, extra):
    """Bound: 2e-5 of the largest logit, as for the networks alone (test_logits.py)."""
    from mindformers import MindFormerConfig
    from mindformers.models import build_network

    (tmp_path / "small.yaml").write_text(SMALL.replace("EXTRA", extra))
    run = read_run(tmp_path / "small.yaml")
    ours, rng = LlamaNetwork(run.model.config), np.random.default_rng(8)
    for parameter in ours.trainable_params():
        values = rng.standard_normal(parameter.shape) * 0.2 + (parameter.ndim == 1)
        parameter.set_data(ms.Tensor(values.astype(np.float32)))
    ms.save_checkpoint(ours, str(tmp_path / "ours.ckpt"))
    theirs = build_network(MindFormerConfig(**translate(run, Found()).values).model).set_train(False)
    assert ms.load_param_into_net(theirs, ms.load_checkpoint(str(tmp_path / "ours.ckpt"))) == ([], [])
    ids = rng.integers(1, 97, (2, 24)).astype(np.int32)
    wanted = ours(ms.Tensor(ids)).asnumpy()
    found = theirs(ms.Tensor(ids))[0].asnumpy().reshape(wanted.shape)
    assert np.abs(found - wanted).max() < 2e-5 * np.abs(wanted).max()
