"""Our YAML in the words of MindFormers 1.9, without MindFormers: every key has a place, values keep their meaning."""

import dataclasses
from pathlib import Path

import pytest

from mindformers_codellama.config.check import run_findings
from mindformers_codellama.config.fields import field_types
from mindformers_codellama.config.read import read_run
from mindformers_codellama.config.reference import sections
from mindformers_codellama.config.refused import lookup_name
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.config.sections_callbacks import CALLBACK_TYPES
from mindformers_codellama.engines.mindformers_keys import CALLBACKS, CPU_VALUES, LEFT_OUT, SECTION_MODES, VALUES
from mindformers_codellama.engines.translate import Found, translate

FILES = sorted(
    path for path in (Path(__file__).parents[3] / "configs").rglob("*.yaml") if not path.stem.endswith(("_lora", "_lora_910b", "_demo"))
)
"""Adapters and products in bfloat16 on a CPU are of the native engine."""
ASCEND = ["engine=mindformers", "optimizer.type=AdamW"]


def read(tmp_path, text, *overrides):
    (tmp_path / "run.yaml").write_text("engine: mindformers\n" + text)
    return read_run(tmp_path / "run.yaml", overrides=overrides)


def translated(run, **found):
    return translate(run, Found(**found))


def plain(values):
    """Whether a value is made of what YAML has, and holds no null and no empty text."""
    if isinstance(values, dict):
        return all(isinstance(key, str) and plain(item) for key, item in values.items())
    if isinstance(values, list):
        return all(plain(item) for item in values)
    return type(values) in (bool, int, float, str)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_file_is_translated_to_plain_values_for_its_mode(path):
    run = read_run(path, overrides=["engine=mindformers", "train_dataset.input_columns=[input_ids]"])
    values = translated(run, weights="w.ckpt").values
    assert plain(values)
    absent = [key for key, modes in SECTION_MODES.items() if run.run_mode not in modes and key in values]
    assert absent == []
    assert not {"engine", "train_log", "compat", "moe_config"} & set(values)
    assert values["load_checkpoint"] == "w.ckpt"
    assert values["use_legacy"] is True
    assert values["model"]["model_config"]["theta"] == run.model.model_config.theta
    assert values["parallel_config"]["model_parallel"] == run.parallel_config.model_parallel


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_shipped_files_need_for_mindformers_is_told_with_what_to_write(path):
    """As they are, the Ascend files name an optimizer 1.9 lacks, and the tiny ones packed rows, a cache or degrees on a CPU."""
    needed = {"train_dataset.data_loader.dataset_dir": "d", "load_checkpoint": "w.ckpt", "input_data": "[x]"}
    base = ["engine=mindformers", *(f"{key}={value}" for key, value in needed.items())]
    tiny = "tiny" in path.stem
    fix = ["optimizer.type=AdamW"]
    if tiny:
        fix = ["model.model_config.use_past=False", "train_dataset.input_columns=[input_ids, labels]"]
        fix += ["use_parallel=False", "runner_config.gradient_accumulation_steps=1"]
    assert run_findings(read_run(path, overrides=[*base, *fix])) == []


def test_every_key_of_the_tables_is_one_of_ours_and_every_callback_has_a_place():
    known = {lookup_name((name, key) if name else (key,)) for name, section in sections() for key in field_types(section)}
    known |= {f"{name}.{key}" for name in ("train_dataset", "optimizer") for key in known}
    assert set(LEFT_OUT) <= known
    assert {name for name, _ in VALUES} <= known
    assert {name for name in CPU_VALUES if name != "postprocess_use_numpy"} <= known
    assert set(SECTION_MODES) <= {field.name for field in dataclasses.fields(RunConfig)}
    assert set(CALLBACKS) == {kind.__name__ for kind in CALLBACK_TYPES.values()}


def test_renamed_and_removed_classes(tmp_path):
    text = (
        "callbacks:\n  - {type: MFLossMonitor}\n  - {type: CheckpointMointor, prefix: x}\n  - {type: ObsMonitor}\n"
        "optimizer: {type: FP32StateAdamWeightDecay, beta1: 0.8, beta2: 0.9}\nmoe_config: {expert_num: 1}\n"
        "model: {model_config: {param_init_type: float32, use_paged_attention: True, pretrain_seqlen: 4096}}\n"
    )
    made = translated(read(tmp_path, text))
    assert [item["type"] for item in made.values["callbacks"]] == ["MFLossMonitor", "CheckpointMonitor"]
    assert made.values["callbacks"][1]["save_network_params"] is True, "MindFormers 1.9's own default is False"
    assert made.values["optimizer"]["type"] == "AdamWeightDecay"
    assert (made.values["optimizer"]["beta1"], made.values["optimizer"]["beta2"]) == (0.8, 0.9)
    assert "use_paged_attention" not in made.values["model"]["model_config"]
    assert made.values["model"]["model_config"]["max_position_embedding"] == 4096
    assert [note for note in made.notes if "FP32StateAdamWeightDecay" in note]


def test_adamw_takes_its_betas_as_a_list_and_a_loss_scale_names_its_class(tmp_path):
    text = (
        "optimizer: {type: AdamW, betas: [0.9, 0.95]}\n"
        "runner_wrapper: {type: MFTrainOneStepCell, scale_sense: {type: DynamicLossScaleUpdateCell, scale_window: 7}}\n"
    )
    values = translated(read(tmp_path, text)).values
    assert values["optimizer"]["betas"] == [0.9, 0.95]
    assert not {"beta1", "beta2", "learning_rate"} & set(values["optimizer"])
    scale = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 65536.0, "scale_factor": 2.0, "scale_window": 7}
    assert values["runner_wrapper"]["scale_sense"] == scale


def test_on_a_cpu_operators_without_a_kernel_are_replaced_and_told(tmp_path):
    text = (
        "context: {device_target: DEVICE}\nmodel: {model_config: {param_init_type: float32}}\nrunner_wrapper: {type: MFTrainOneStepCell}\n"
    )
    there = translated(read(tmp_path, text.replace("DEVICE", "Ascend")))
    here = translated(read(tmp_path, text.replace("DEVICE", "CPU")))
    assert there.values["runner_wrapper"]["type"] == "MFTrainOneStepCell"
    assert "postprocess_use_numpy" not in there.values
    assert there.values["model"]["model_config"]["use_rope_slice"] is False
    assert not [note for note in there.notes if "CPU" in note]
    assert here.values["runner_wrapper"]["type"] == "ByValueTrainOneStepCell"
    assert here.values["model"]["model_config"]["use_rope_slice"] is True
    assert here.values["model"]["model_config"]["fused_rms_norm"] is False
    assert here.values["postprocess_use_numpy"] is True
    assert len([note for note in here.notes if "CPU" in note]) == 4


def test_files_win_over_the_folder_as_in_the_native_engine_and_threads_are_bounded(tmp_path):
    text = "train_dataset: {data_loader: {type: MindDataset, dataset_dir: d, dataset_files: [a.mindrecord]}, num_parallel_workers: 8}\n"
    values = translated(read(tmp_path, text), most_workers=2).values
    loader = values["train_dataset"]["data_loader"]
    assert loader["dataset_files"] == ["a.mindrecord"]
    assert "dataset_dir" not in loader
    assert values["train_dataset"]["num_parallel_workers"] == 2
    assert values["train_dataset_task"]["dataset_config"] == values["train_dataset"]


def test_rows_of_every_rank_need_a_strategy_of_the_batch(tmp_path):
    text = "use_parallel: True\nparallel: {full_batch: False}\nparallel_config: {data_parallel: 4}\n"
    values = translated(read(tmp_path, text, 'train_dataset.input_columns=["input_ids","labels"]')).values
    assert values["parallel"]["dataset_strategy"] == [[4, 1], [4, 1]]
    whole = translated(read(tmp_path, text.replace("False", "True"))).values
    assert "dataset_strategy" not in whole["parallel"]


def test_evaluation_while_training_brings_its_sections_and_prediction_its_tokenizer(tmp_path):
    text = "do_eval: True\neval_dataset: {data_loader: {dataset_dir: e}}\n"
    assert "eval_dataset" in translated(read(tmp_path, text)).values
    assert "eval_dataset" not in translated(read(tmp_path, text, "do_eval=False")).values
    predict = translated(read(tmp_path, text, "run_mode=predict"), vocab_file="t.model", device_id=3).values
    assert predict["processor"]["tokenizer"]["vocab_file"] == "t.model"
    assert predict["context"]["device_id"] == 3
    assert "optimizer" not in predict


def test_a_person_is_told_what_was_asked_for_and_is_left_out(tmp_path):
    adamw = "optimizer: {type: AdamW}\n"
    notes = translated(read(tmp_path, adamw + "context: {runtime_num_threads: 1}\ntrain_log: {plot: False}\n")).notes
    assert sorted(note.split(":")[0] for note in notes) == ["context.runtime_num_threads", "train_log"]
    assert translated(read(tmp_path, adamw)).notes == ()
    assert translated(read(tmp_path, "run_mode: predict\n")).notes == (), "the optimizer is no matter of a prediction"
