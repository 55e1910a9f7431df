"""What `engine: mindformers` allows, refuses, and refuses on a CPU; each message says what to write."""

import pytest

from mindformers_codellama.config.check import run_findings
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import ConfigError


def read(tmp_path, *overrides, engine="mindformers"):
    text = f"engine: {engine}\ntrain_dataset: {{data_loader: {{dataset_dir: d}}}}\nload_checkpoint: w.ckpt\n"
    (tmp_path / "run.yaml").write_text(text + "input_data: [x]\noptimizer: {type: AdamW}\n")
    return read_run(tmp_path / "run.yaml", overrides=overrides)


def findings(tmp_path, *overrides):
    return [str(error) for error in run_findings(read(tmp_path, *overrides))]


@pytest.mark.parametrize(
    "override",
    [
        "model.model_config.use_flash_attention=True",
        "model.model_config.use_paged_attention=True",
        "model.model_config.qkv_concat=True",
        "model.model_config.fine_grain_interleave=2",
        "model.model_config.tie_word_embeddings=True",
        "recompute_config.select_recompute=True",
        "parallel_config.context_parallel=2",
        "train_dataset.numa_enable=True",
        "profile=True",
        "layer_scale=True",
    ],
)
def test_what_only_the_native_engine_lacks_is_allowed(tmp_path, override):
    assert findings(tmp_path, override) == []
    with pytest.raises(ConfigError, match="not available"):
        read(tmp_path, override, engine="native")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run_mode=export", "run_mode: got 'export', not available: MindFormers 1.9 exports no MindIR. Fix: write engine: native"),
        ("model.model_config.num_beams=4", "got 4, not available: MindFormers 1.9 has no beam search. Fix: write 1"),
        ("model.model_config.use_kvcache_op=True", "the cache of MindFormers 1.9 is always paged. Fix: write False and use_past: True"),
        ("context.enable_graph_kernel=True", "MindFormers 1.9 does not apply it. Fix: write False"),
        ("compat.no_decay_leak=True", "MindFormers 1.9 has no such switch. Fix: write False"),
        ("train_dataset.seed=3", "overwrites it with the key of the same name at the top. Fix: set seed at the top"),
        ("train_dataset.input_columns=[input_ids, segment_ids]", "prepare the data without --pack"),
    ],
)
def test_what_mindformers_lacks_is_refused_when_the_file_is_read(tmp_path, override, message):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, override)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.type=FP32StateAdamWeightDecay"], "optimizer.type: FP32StateAdamWeightDecay is gone from MindFormers 1.9"),
        (["lr_schedule.warmup_epochs=2"], "lr_schedule.warmup_epochs: got 2; MindFormers 1.9 takes it only together with warmup_ratio"),
        (["runner_config.gradient_accumulation_steps=2"], "accumulates only in parallel_mode 1"),
    ],
)
def test_what_mindformers_would_do_differently_in_silence_is_a_finding(tmp_path, overrides, message):
    assert [found for found in findings(tmp_path, *overrides) if message in found]
    assert all("Fix: write" in found for found in findings(tmp_path, *overrides))


def test_the_old_optimizer_is_fine_for_float32_weights_and_accumulation_where_it_works(tmp_path):
    float32 = ["optimizer.type=FP32StateAdamWeightDecay", "model.model_config.param_init_type=float32"]
    assert findings(tmp_path, *float32) == []
    shared = ["use_parallel=True", "runner_config.gradient_accumulation_steps=2", "parallel_config.data_parallel=2"]
    assert findings(tmp_path, *shared) == []
    assert findings(tmp_path, "lr_schedule.warmup_epochs=2", "lr_schedule.warmup_ratio=0.1") == []


CPU = ["context.device_target=CPU", "runner_config.sink_mode=False"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.model_config.use_flash_attention=True"], "use_flash_attention: FlashAttentionScore has no CPU kernel"),
        (["run_mode=predict", "model.model_config.use_past=True"], "use_past: its cache needs ApplyRotaryPosEmb, which has no CPU kernel"),
        (["run_mode=predict", "model.model_config.is_dynamic=True"], "is_dynamic: it switches flash attention on"),
        (["use_parallel=True", "parallel_config.data_parallel=2"], "parallel_mode: got 1: MindSpore cuts operators on Ascend only"),
        (["runner_config.sink_mode=True", "runner_config.sink_size=2"], "runner_config.sink_size: 2 with sink_mode on a CPU"),
        (["run_mode=eval", "use_parallel=True", "parallel.parallel_mode=0", "parallel_config.data_parallel=2",
          "eval_dataset.data_loader.dataset_dir=e"], "run_mode eval of MindFormers needs one process"),
        (["use_parallel=True", "parallel.parallel_mode=0", "parallel_config.data_parallel=2"],
         "load_checkpoint: with several ranks MindFormers waits at a Barrier"),
    ],
)  # fmt: skip
def test_what_has_no_cpu_kernel_is_refused_on_a_cpu_alone(tmp_path, overrides, message):
    found = findings(tmp_path, *CPU, *overrides)
    assert [text for text in found if message in text and "Fix: " in text], found
    assert not [text for text in findings(tmp_path, "context.device_target=Ascend", *overrides) if message in text]


def test_training_on_a_cpu_alone_or_as_copies_is_fine(tmp_path):
    assert findings(tmp_path, *CPU) == []
    copies = ["use_parallel=True", "parallel.parallel_mode=0", "parallel_config.data_parallel=2", "load_checkpoint="]
    assert findings(tmp_path, *CPU, *copies) == []


def test_a_wrong_engine_is_refused_once_with_the_possible_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"run.yaml:1: engine: got 'torch'. Fix: one of native, mindformers"):
        read(tmp_path, engine="torch")
