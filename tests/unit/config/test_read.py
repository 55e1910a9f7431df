"""From YAML to sections: what is read, and what is refused with which words."""

import dataclasses
import logging

import pytest

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.read import read_run, read_section
from mindformers_codellama.config.sections import (
    CheckpointMonitor,
    DynamicLossScale,
    LossMonitor,
    ObsMonitor,
    OptimizerSection,
    RunConfig,
)
from mindformers_codellama.errors import ConfigError, Findings


def test_what_is_not_written_is_a_default(write):
    assert read_run(write("seed: 0\n")) == RunConfig() == read_run(write(""), overrides=["seed=0"])


@pytest.mark.parametrize("text", ["", "# nothing\n", "base_config:\n"])
def test_a_file_without_a_key_is_refused(write, text):
    with pytest.raises(ConfigError, match=r"run.yaml: holds no key: every value would be a default"):
        read_run(write(text))


def test_unknown_key_is_refused_with_file_line_and_the_near_one(write):
    path = write("seed: 1\nmodel:\n  model_config:\n    n_kv_head: 8\n")
    with pytest.raises(ConfigError) as caught:
        read_run(path)
    assert str(caught.value) == f"{path}:4: model.model_config.n_kv_head: unknown key. Fix: did you mean model.model_config.n_kv_heads?"


def test_an_unknown_key_with_no_near_one_lists_the_known(write):
    with pytest.raises(ConfigError, match=r"trainer.zzzz: unknown key. Fix: known here: model_name, type."):
        read_run(write("trainer: {zzzz: 1}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: one\n", r"run.yaml:1: seed: got 'one' \(a text\). Fix: a whole number."),
        ("seed: 1.5\n", r"seed: got 1.5 \(a number\). Fix: a whole number."),
        ("seed: True\n", r"seed: got True \(True or False\). Fix: a whole number."),
        ("seed: null\n", r"seed: got null. Fix: a whole number."),
        ("do_eval: 1\n", r"do_eval: got 1 \(a whole number\). Fix: True or False."),
        ('optimizer: {eps: "1e-8"}\n', r"optimizer.eps: got '1e-8' \(a text\). Fix: a number."),
        ("optimizer: {eps: .nan}\n", r"optimizer.eps: got nan. Fix: a finite number."),
        ("output_dir: 3\n", r"output_dir: got 3 \(a whole number\). Fix: a text."),
        ("optimizer: 3\n", r"optimizer: got 3 \(a whole number\). Fix: a section"),
        ("train_dataset: {input_columns: [1]}\n", r"input_columns: got \[1\] \(a list\). Fix: list of a text."),
        ("train_dataset: {input_columns: [inputs]}\n", r"input_columns: got 'inputs'. Fix: one of input_ids, labels"),
        ("run_mode: training\n", r"run_mode: got 'training'. Fix: one of train, finetune, eval, predict, export."),
        ("runner_config: {epochs: 0}\n", r"runner_config.epochs: got 0, must be at least 1."),
        ("runner_config: {sink_size: 0}\n", r"runner_config.sink_size: got 0, must be at least 1, or -1."),
        ("lr_schedule: {warmup_ratio: 1.5}\n", r"warmup_ratio: got 1.5, must be at least 0 and at most 1."),
        ("context: {device_target: GPU}\n", r"device_target: got 'GPU'. Fix: one of Ascend, CPU."),
        ("callbacks: 3\n", r"callbacks: got 3 \(a whole number\). Fix: a list of callbacks"),
        ("callbacks: [{prefix: x}]\n", r"callbacks.0.type: got None. Fix: one of CheckpointMonitor"),
        ("callbacks: [ObsMonitor]\n", r"callbacks.0: got 'ObsMonitor' \(a text\). Fix: a section with a type, such as `- type: MFLoss"),
        ("seed: -1\n", r"seed: got -1, must be at least 0 and at most 4294967295."),
        ("parallel: {parallel_mode: semi_auto}\n", r"Fix: a whole number. One of 0, 1, 2, 3, data_parallel, semi_auto_parallel"),
        ("context: {device_target: 1}\n", r"device_target: got 1 \(a whole number\). Fix: a text. One of Ascend, CPU.$"),
        (
            "callbacks:\n  - type: CheckpointMoniter\n",
            r"run.yaml:2: callbacks.0.type: got 'CheckpointMoniter'. Fix: did you mean CheckpointMon",
        ),
        ("callbacks:\n  - type: MFLossMonitor\n  - type: ObsMonitor\n    prefix: x\n", r"run.yaml:4: callbacks.1.prefix: unknown key"),
        ("runner_wrapper: {scale_sense: {type: Dynamic}}\n", r"scale_sense.type: got 'Dynamic'. Fix: DynamicLossScaleUpdateCell"),
        ("runner_wrapper: {scale_sense: big}\n", r"scale_sense: got 'big' \(a text\). Fix: a number or a section."),
        ("optimizer: {betas: [0.9]}\n", r"optimizer.betas: got \[0.9\] \(a list\). Fix: two numbers"),
        ("model: {model_config: {num_heads: 7}}\n", r"run.yaml:1: model.model_config.num_heads: got 7, must divide hidden_size \(4096\)"),
        ("model: {model_config: {compute_dtype: fp8}}\n", r"compute_dtype: got 'fp8'. Fix: one of float32, float16, bfloat16."),
        ("model: {arch: {type: GPT2LMHeadModel}}\n", r"model.arch.type: got 'GPT2LMHeadModel'. Fix: one of LlamaForCausalLM."),
    ],
)
def test_wrong_values_are_refused_with_place_value_and_what_is_allowed(write, text, message):
    with pytest.raises(ConfigError, match=message):
        read_run(write(text))


def test_all_findings_come_at_once(write):
    text = "sead: 1\nrunner_config: {epochs: 0, batch_size: two}\nmodel:\n  model_config: {use_paged_attention: True, vocab: 3}\n"
    with pytest.raises(Findings) as caught:
        read_run(write(text))
    found = sorted(error.where.rsplit(": ", 1)[1] for error in caught.value)
    assert found == [
        "model.model_config.use_paged_attention",
        "model.model_config.vocab",
        "runner_config.batch_size",
        "runner_config.epochs",
        "sead",
    ]
    assert str(caught.value).startswith("5 problems:\n  1. ")


def test_a_whole_number_serves_as_a_number_and_one_value_as_a_list(write):
    run = read_run(write("optimizer: {eps: 1}\ntrain_dataset: {input_columns: labels}\n".replace("labels", "input_ids")))
    assert (run.optimizer.eps, type(run.optimizer.eps)) == (1.0, float)
    assert run.train_dataset.input_columns == ("input_ids",)


def test_empty_texts_may_be_left_blank(write):
    assert read_run(write("load_checkpoint:\ncallbacks:\ntrain_dataset:\n")).load_checkpoint == ""


def test_sections_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 3  # type: ignore[misc]


def test_a_section_built_in_python_is_checked_as_one_from_a_file():
    with pytest.raises(ConfigError, match="optimizer.beta1: got 2, must be at least 0 and at most 1"):
        OptimizerSection(beta1=2)
    assert read_section(OptimizerSection, {"beta1": 0.5}, name="optimizer") == OptimizerSection(beta1=0.5)


@pytest.mark.parametrize("spelling", ["CheckpointMonitor", "CheckpointMointor"])
def test_both_spellings_of_the_checkpoint_monitor_are_one(write, spelling):
    run = read_run(write(f"callbacks:\n  - type: MFLossMonitor\n  - type: {spelling}\n    prefix: x\n  - type: ObsMonitor\n"))
    assert run.callbacks == (LossMonitor(), CheckpointMonitor(prefix="x"), ObsMonitor())
    assert run.checkpoint_monitor == CheckpointMonitor(prefix="x")


def test_loss_scale_may_be_dynamic_fixed_or_a_number(write):
    dynamic = "runner_wrapper: {scale_sense: {type: DynamicLossScaleUpdateCell, loss_scale_value: 64, scale_window: 5}}\n"
    assert read_run(write(dynamic)).runner_wrapper.scale_sense == DynamicLossScale(loss_scale_value=64.0, scale_window=5)
    fixed = "runner_wrapper: {scale_sense: {type: FixedLossScaleUpdateCell, loss_scale_value: 64}}\n"
    assert read_run(write(fixed)).runner_wrapper.scale_sense == 64.0
    assert read_run(write("runner_wrapper: {scale_sense: 8}\n")).runner_wrapper.scale_sense == 8.0


def test_model_keys_become_our_words(write):
    keys = "hidden_size: 64, num_layers: 2, num_heads: 4, n_kv_heads: 2, theta: 1.e6, max_position_embedding: 99, intermediate_size: 96"
    types = (
        "compute_dtype: fp16, layernorm_compute_type: Float32, softmax_compute_type: float16, rotary_dtype: bf16, param_init_type: float32"
    )
    run = read_run(write(f"model: {{model_config: {{{keys}, {types}, vocab_size: 77, seq_length: 33, rms_norm_eps: 1e-6}}}}\n"))
    assert run.model.config == ModelConfig(
        vocab_size=77, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96, seq_length=33, max_position=99,
        rms_norm_eps=1e-6, rope_theta=1e6, compute_dtype="float16", softmax_compute_dtype="float16", rotary_dtype="bfloat16",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("hidden", "rule", "expected"),
    # the four published widths, from Meta's and Hugging Face's configurations
    [(4096, "", 11008), (5120, "", 13824), (8192, "", 22016), (8192, ", multiple_of: 4096, ffn_dim_multiplier: 1.3", 28672)],
)
def test_null_sizes_mean_what_they_mean_in_mindformers(write, hidden, rule, expected):
    config = read_run(write(f"model: {{model_config: {{hidden_size: {hidden}, num_heads: 64, seq_length: 123{rule}}}}}\n")).model.config
    assert (config.intermediate_size, config.num_kv_heads, config.max_position) == (expected, 64, 123)


def test_generation_takes_its_defaults_from_the_model(write):
    text = "max_decode_length: 512, top_k: 3, do_sample: False, max_new_tokens: 7, eos_token_id: [2, 9]"
    more = "repetition_penalty: 1.5, use_past: True"
    generation = read_run(write(f"model: {{model_config: {{{text}, {more}}}}}\n")).model.generation
    assert (generation.max_length, generation.top_k, generation.do_sample, generation.max_new_tokens) == (512, 3, False, 7)
    assert (generation.eos_token_ids, generation.repetition_penalty, generation.use_past) == ((2, 9), 1.5, True)


DATASETS = """
train_dataset: &train_dataset
  data_loader: {dataset_dir: old.mindrecord}
  batch_size: 6
train_dataset_task:
  type: CausalLanguageModelDataset
  dataset_config: *train_dataset
"""


def test_a_dataset_changed_over_its_base_changes_for_its_task_too(write):
    write(DATASETS, "base.yaml")
    run = read_run(write("base_config: base.yaml\ntrain_dataset: {data_loader: {dataset_dir: new.mindrecord}}\n"))
    assert run.train_dataset.data_loader.dataset_dir == "new.mindrecord"
    assert run.train_dataset.batch_size == 6


def test_a_task_that_says_something_else_than_its_dataset_is_refused(write):
    text = "train_dataset: {batch_size: 1}\ntrain_dataset_task:\n  dataset_config: {batch_size: 2}\n"
    with pytest.raises(ConfigError, match=r"run.yaml:3: train_dataset_task.dataset_config: says something else than train_dataset"):
        read_run(write(text))


def test_a_dataset_written_only_in_its_task_is_read(write):
    run = read_run(write("train_dataset_task: {dataset_config: {data_loader: {dataset_dir: x}}}\n"))
    assert run.train_dataset.data_loader.dataset_dir == "x"


def test_the_optimizers_learning_rate_serves_a_schedule_without_one(write):
    assert read_run(write("optimizer: {learning_rate: 5.e-6}\n")).lr_schedule.learning_rate == 5e-6
    both = read_run(write("optimizer: {learning_rate: 5.e-6}\nlr_schedule: {learning_rate: 1e-3}\n"))
    assert both.lr_schedule.learning_rate == 1e-3


def test_betas_are_read_as_beta1_and_beta2(write):
    optimizer = read_run(write("optimizer: {type: AdamW, betas: [0.8, 0.95]}\n")).optimizer
    assert (optimizer.beta1, optimizer.beta2) == (0.8, 0.95)


def test_old_keys_are_read_with_a_warning(write, caplog):
    with caplog.at_level(logging.WARNING):
        run = read_run(write("model: {model_config: {pretrain_seqlen: 99, compute_in_2d: True}}\n"))
    assert run.model.config.max_position == 99
    assert "write max_position_embedding instead" in caplog.text
    assert "compute_in_2d: an old key without effect" in caplog.text


def test_parallel_mode_may_be_a_number_or_a_name(write):
    assert read_run(write("parallel: {parallel_mode: semi_auto_parallel}\n")).parallel.parallel_mode == 1
    assert read_run(write("context: {mode: PYNATIVE_MODE, device_target: cpu}\n")).context.mode == 1
