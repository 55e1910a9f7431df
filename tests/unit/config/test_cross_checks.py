"""Rules across sections, one test per rule, and that they are reported together."""

import pytest

from mindformers_codellama.config.check import (
    global_batch,
    notes,
    rank_count,
    require_runnable,
    require_single_process,
    run_findings,
)
from mindformers_codellama.config.read import read_run
from mindformers_codellama.config.refused import REFUSED
from mindformers_codellama.errors import ConfigError, Findings

TINY = "hidden_size: 64, num_layers: 2, num_heads: 4, n_kv_heads: 2, vocab_size: 50, intermediate_size: 96, compute_dtype: float32"

SPREAD = "use_parallel: True\nparallel_config: "
PREDICT = "run_mode: predict\n" + SPREAD


@pytest.fixture
def run_with(write):
    """A run from keys of the model and further lines."""

    def read(lines: str = "", model: str = "", overrides: tuple[str, ...] = ()):
        device = "" if "context:" in lines else "context: {device_target: CPU}\n"
        return read_run(write(f"{device}model: {{model_config: {{{TINY}{', ' if model else ''}{model}}}}}\n{lines}"), overrides=overrides)

    return read


def texts(run, **options) -> str:
    return "\n".join(str(error) for error in run_findings(run, **options))


@pytest.mark.parametrize(
    ("lines", "model", "message"),
    [
        (
            "",
            "rotary_dtype: bf16",
            r"run.yaml:2: model.model_config.rotary_dtype: .* no bfloat16 .* CPU, .*Fix: write float32.",
        ),
        ("", "param_init_type: bfloat16", r"param_init_type: got bfloat16; MindSpore has no bfloat16"),
        ("", "eos_token_id: 50", r"eos_token_id: got 50, must be below vocab_size \(50\)"),
        ("", "eos_token_id: [2, 77]", r"eos_token_id: got 77, must be below"),
        ("", "ignore_token_id: 3", r"ignore_token_id: got 3, which is also a token"),
        (SPREAD + "{model_parallel: 4}\n", "", r"model_parallel: got 4, must divide n_kv_heads \(2\)"),
        (
            SPREAD + "{pipeline_stage: 3, micro_batch_num: 3}\n",
            "",
            r"pipeline_stage: got 3, must be at most num_layers \(2\)",
        ),
        (
            SPREAD + "{pipeline_stage: 2}\n",
            "",
            r"micro_batch_num: got 1, must be at least pipeline_stage \(2\)",
        ),
        (
            PREDICT + "{pipeline_stage: 2, micro_batch_num: 2}\n",
            "",
            r"run_mode predict has no pipeline",
        ),
        (
            PREDICT + "{data_parallel: 2}\nengine: mindformers\n",
            "batch_size: 3",
            r"got 2, must divide the batch \(3\)",
        ),
        (
            "lr_schedule: {warmup_steps: 9, total_steps: 5}\n",
            "",
            r"run.yaml:3: lr_schedule.warmup_steps: got 9, must be at most total_steps",
        ),
        ("lr_schedule: {learning_rate: 1e-5, lr_end: 1e-4}\n", "", r"lr_end: got 0.0001, must be at most learning_rate"),
        ("train_dataset: {input_columns: [labels]}\n", "", r"input_columns: got \['labels'\], must hold input_ids"),
        ("train_dataset: {input_columns: [input_ids, input_ids]}\n", "", r"a column twice"),
        ("resume_training: True\n", "", r"run.yaml:3: resume_training: True needs load_checkpoint"),
        ("callbacks: [{type: CheckpointMonitor}, {type: CheckpointMointor}]\n", "", r"callbacks: holds CheckpointMonitor more than once"),
    ],
)
def test_what_is_wrong_in_any_use_is_refused_when_the_file_is_read(run_with, lines, model, message):
    with pytest.raises(ConfigError, match=message):
        run_with(lines, model)


BF16 = "model.model_config.compute_dtype=bfloat16"
FLOAT32 = "model.model_config.param_init_type=float32"


@pytest.mark.parametrize(
    ("lines", "overrides", "message"),
    [
        ("kernels: off\n", (FLOAT32,), r"compute_dtype: MindSpore has no bfloat16 matrix product .*kernels: auto"),
        ("engine: mindformers\n", (FLOAT32,), r"compute_dtype: MindSpore has no bfloat16 matrix product"),
        ("", (), r"param_init_type: got float16; with compute_dtype: bfloat16 on the CPU only float32"),
        (
            "",
            (FLOAT32, "model.model_config.softmax_compute_type=float16"),
            r"softmax_compute_type: got float16; with compute_dtype: bfloat16",
        ),
    ],
)
def test_bfloat16_on_the_cpu_needs_the_kernels_and_float32_beside_it(run_with, lines, overrides, message):
    with pytest.raises(ConfigError, match=message):
        run_with(lines, overrides=(BF16, *overrides))


def test_bfloat16_on_the_cpu_is_allowed_with_the_kernels(run_with):
    assert run_with(overrides=(BF16, FLOAT32)).model.config.compute_dtype == "bfloat16"
    run_with("run_mode: predict\n", overrides=(BF16,))  # weights of another type are read into the form that is multiplied


def test_the_same_settings_are_allowed_where_they_make_sense(run_with):
    """Able to pass: bfloat16 on Ascend, degrees without use_parallel, a warm-up as long as the run."""
    ascend = run_with("context: {device_target: Ascend}\n", "rotary_dtype: bfloat16")
    assert ascend.model.config.rotary_dtype == "bfloat16"
    run_with("parallel_config: {model_parallel: 4, pipeline_stage: 9}\nlr_schedule: {warmup_steps: 5, total_steps: 5}\n")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("run_mode: train\n", "train_dataset.data_loader.dataset_dir: is empty. Fix: name a mindrecord file"),
        ("run_mode: finetune\ntrain_dataset: {data_loader: {dataset_dir: x}}\n", "load_checkpoint: is empty, but run_mode is finetune"),
        ("run_mode: eval\n", "eval_dataset.data_loader.dataset_dir: is empty, but evaluation is asked for"),
        ("do_eval: True\ntrain_dataset: {data_loader: {dataset_dir: x}}\n", "eval_dataset.data_loader.dataset_dir: is empty"),
        ("do_eval: True\neval_epoch_interval: -1\n", "do_eval: is True, but neither eval_step_interval nor eval_epoch_interval is set"),
    ],
)
def test_what_a_run_mode_needs_is_found(run_with, lines, message):
    assert message in texts(run_with(lines))


def test_checkpoint_name_or_path_serves_for_load_checkpoint(run_with):
    run = run_with("run_mode: finetune\ntrain_dataset: {data_loader: {dataset_dir: x}}\n", "checkpoint_name_or_path: y")
    assert run_findings(run) == []
    assert run.start_weights == "y"


def test_several_findings_are_raised_together(run_with):
    with pytest.raises(Findings, match="2 problems") as caught:
        require_runnable(run_with("run_mode: finetune\n"))
    assert [error.where for error in caught.value] == ["train_dataset.data_loader.dataset_dir", "load_checkpoint"]


FOUR_RANKS = SPREAD + "{data_parallel: 2, model_parallel: 2, pipeline_stage: 1}\ntrain_dataset: {data_loader: {dataset_dir: x}}\n"


def test_the_degrees_must_multiply_to_the_ranks_when_they_are_known(run_with):
    run = run_with(FOUR_RANKS)
    assert "is 2 * 2 * 1 = 4, but there are 8 ranks. Fix: choose degrees whose product is 8." in texts(run, ranks=8)
    assert texts(run, ranks=4) == ""
    assert texts(run) == "", "an unknown number of ranks is not guessed"


def test_ranks_come_from_the_launchers_environment():
    assert rank_count({}) is None
    assert rank_count({"RANK_SIZE": "8"}) == 8
    with pytest.raises(ConfigError, match="RANK_SIZE: got 'x' from the environment"):
        rank_count({"RANK_SIZE": "x"})


def test_one_process_refuses_a_run_for_several(run_with):
    with pytest.raises(ConfigError, match=r"asks for 4 ranks \(.* 2 .* 2 .* 1\), but this is one process. Fix: --set use_parallel=False"):
        require_single_process(run_with(FOUR_RANKS))
    require_single_process(run_with(FOUR_RANKS, overrides=("use_parallel=False",)))
    with pytest.raises(ConfigError, match="src_strategy_path_or_dir: names the strategy of a checkpoint cut over ranks"):
        require_single_process(run_with("src_strategy_path_or_dir: strategy\n"))


@pytest.mark.parametrize(
    ("lines", "rows"),
    # the contract's formula, worked by hand
    [
        ("runner_config: {batch_size: 3, gradient_accumulation_steps: 5}\nparallel_config: {data_parallel: 7}\n", 15),
        ("runner_config: {batch_size: 3, gradient_accumulation_steps: 5}\nuse_parallel: True\nparallel_config: {data_parallel: 7}\n", 105),
        (
            "runner_config: {batch_size: 1}\nuse_parallel: True\nparallel_config: "
            "{data_parallel: 4, model_parallel: 2, pipeline_stage: 2, micro_batch_num: 96}\n",
            384,
        ),
    ],
)
def test_global_batch_follows_the_contract(run_with, lines, rows):
    assert global_batch(run_with(lines)) == rows


@pytest.mark.parametrize(
    ("lines", "model", "words"),
    [
        ("", "compute_dtype: float16", "float16 works on the CPU but is slow"),
        ("trainer: {model_name: codellama_34b}\n", "", "theta: is 10000.0, but codellama_34b has 1000000.0"),
        ("trainer: {model_name: codellama_34}\n", "", "'codellama_34' is not in the model registry; did you mean codellama_34b?"),
        ("", "scaling_factor: 2.0", "has no effect while extend_method is None"),
        ("", "seq_length: 512, max_position_embedding: 256", "512 is beyond the trained positions (256)"),
        ("run_mode: predict\n", "seq_length: 64", "is cut to seq_length (64)"),
        ("run_mode: predict\n", "", "the model starts from random ones"),
    ],
)
def test_notes_say_what_is_worth_knowing(write, lines, model, words):
    base = TINY.replace(", compute_dtype: float32", "") if "compute_dtype" in model else TINY
    text = f"context: {{device_target: CPU}}\nmodel: {{model_config: {{{base}{', ' if model else ''}{model}}}}}\n{lines}"
    assert words in "\n".join(notes(read_run(write(text))))


def test_an_extended_context_within_its_factor_is_no_note(run_with):
    run = run_with("", "seq_length: 512, max_position_embedding: 256, extend_method: PI, scaling_factor: 2.0")
    assert not any("trained positions" in note for note in notes(run))


def refused_yaml(key: str, value: str) -> str:
    """YAML that sets one refused key."""
    parts = key.split(".")
    if parts[0] == "callbacks":
        return f"callbacks: [{{type: {parts[1]}, {parts[2]}: {value}}}]\n"
    text = value
    for part in reversed(parts):
        text = f"{{{part}: {text}}}"
    return text + "\n"


@pytest.mark.parametrize("key", REFUSED)
def test_a_refused_key_names_what_to_write_and_loads_otherwise(write, key):
    row = REFUSED[key]
    allowed = row.allowed[0]
    asking = "obs://bucket" if isinstance(allowed, str) else str(not allowed) if isinstance(allowed, bool) else "2"
    with pytest.raises(ConfigError) as caught:
        read_run(write(refused_yaml(key, asking)))
    assert "not available" in str(caught.value)
    assert caught.value.fix == row.instead
    read_run(write(refused_yaml(key, f"{allowed!r}")))


def test_both_datasets_are_refused_alike_and_python_built_runs_too(write):
    with pytest.raises(ConfigError, match="eval_dataset.eod_reset: got True, not available"):
        read_run(write("eval_dataset: {eod_reset: True}\n"))
    import dataclasses

    run = read_run(write("train_dataset: {data_loader: {dataset_dir: x}}\n"))
    assert "profile: got True, not available" in texts(dataclasses.replace(run, profile=True))
