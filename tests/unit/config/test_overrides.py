"""`--set` and the flags of run_mindformer.py."""

import pytest

from mindformers_codellama.config.overrides import RUN_MINDFORMER_FLAGS
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import ConfigError, Findings

FILE = "callbacks:\n  - type: MFLossMonitor\n  - type: CheckpointMointor\n    prefix: a\n"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=7", lambda run: run.seed == 7),
        ("do_eval=True", lambda run: run.do_eval is True),
        ("do_eval=false", lambda run: run.do_eval is False),
        ("optimizer.eps=1e-5", lambda run: run.optimizer.eps == 1e-5),
        ("load_checkpoint=path=a=b", lambda run: run.load_checkpoint == "path=a=b"),
        ("output_dir=007", lambda run: run.output_dir == "007"),
        ("output_dir=True", lambda run: run.output_dir == "True"),
        ("model.model_config.extend_method=None", lambda run: run.model.config.extend_method == "None"),
        ("model.model_config.n_kv_heads=null", lambda run: run.model.config.num_kv_heads == 32),
        ("model.model_config.eos_token_id=[2, 5]", lambda run: run.model.generation.eos_token_ids == (2, 5)),
        ('train_dataset.input_columns=["input_ids", "labels"]', lambda run: run.train_dataset.input_columns == ("input_ids", "labels")),
        ("optimizer.betas=[0.5, 0.6]", lambda run: run.optimizer.beta2 == 0.6),
        ("callbacks.1.prefix=007", lambda run: run.checkpoint_monitor.prefix == "007"),
        ("callbacks.CheckpointMonitor.save_checkpoint_steps=5", lambda run: run.checkpoint_monitor.save_checkpoint_steps == 5),
        ("runner_wrapper.scale_sense=16", lambda run: run.runner_wrapper.scale_sense == 16.0),
        ("context.mode=pynative_mode", lambda run: run.context.mode == 1),
        ("model.model_config.n_kv_heads=None", lambda run: run.model.config.num_kv_heads == 32),
        ("lr_schedule.warmup_ratio=", lambda run: run.lr_schedule.warmup_ratio is None),
        ("train_dataset.data_loader.dataset_files=[a, b=c]", lambda run: run.train_dataset.data_loader.dataset_files == ("a", "b=c")),
        ("callbacks.1.type=CheckpointMonitor", lambda run: run.checkpoint_monitor.prefix == "a"),
        ("callbacks=[{type: CheckpointMonitor, prefix: z}]", lambda run: run.checkpoint_monitor.prefix == "z"),
        ("callbacks=[]", lambda run: run.callbacks == ()),
        ("runner_wrapper.scale_sense={type: DynamicLossScaleUpdateCell}", lambda run: run.runner_wrapper.scale_sense.scale_factor == 2),
    ],
)
def test_an_override_is_typed_by_the_key_it_sets(write, override, read):
    assert read(read_run(write(FILE), overrides=[override]))


def test_later_overrides_win_over_earlier_ones_and_over_the_file(write):
    assert read_run(write("seed: 1\n"), overrides=["seed=2", "seed=3"]).seed == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", r"--set seed: is not key=value"),
        ("=3", r"is not key=value"),
        ("sead=3", r"--set sead: unknown key. Fix: did you mean seed\?"),
        ("model.model_config.thta=3", r"did you mean model.model_config.theta\?"),
        ("seed=x", r"--set seed: got 'x' \(a text\). Fix: a whole number"),
        ("seed=[1", r"--set seed: got '\[1', which is not a value YAML can read"),
        ("callbacks.9.prefix=x", r"the list has no element '9'. Fix: a position from 0 to 1, or one of MFLossMonitor, CheckpointMointor"),
        ("callbacks.SummaryMonitor.collect_freq=1", r"the list has no element 'SummaryMonitor'"),
        ("callbacks.1.prefx=x", r"--set callbacks.1.prefx: unknown key"),
        ("runner_config.epochs=0", r"--set runner_config.epochs: got 0, must be at least 1"),
        ("profile=True", r"--set profile: got True, not available"),
        ("callbacks.1=abc", r"--set callbacks.1: got 'abc' \(a text\). Fix: a section with a type"),
        ("callbacks.1.type=Monitor", r"--set callbacks.1.type: got 'Monitor'"),
        ("seed.x=1", r"--set seed.x: seed is 5, not a section. Fix: set seed as a whole"),
        ("seed=", r"--set seed: got null. Fix: a whole number"),
        ("seed=None", r"--set seed: got 'None'"),
        ("seed=1.5", r"--set seed: got 1.5 \(a number\). Fix: a whole number"),
    ],
)
def test_a_wrong_override_is_refused_by_name(write, override, message):
    with pytest.raises(ConfigError, match=message):
        read_run(write("seed: 5\n" + FILE), overrides=[override])


def test_all_wrong_overrides_come_at_once(write):
    with pytest.raises(Findings) as caught:
        read_run(write(FILE), overrides=["sead=3", "seed", "optimizer.eps=1e-6", "runner_config.epoch=1"])
    assert [error.where for error in caught.value] == ["--set sead", "--set seed", "--set runner_config.epoch"]


@pytest.mark.parametrize("name", ["train_dataset", "train_dataset_task.dataset_config"])
@pytest.mark.parametrize(
    "text",
    [
        "train_dataset: &d {data_loader: {dataset_dir: a}}\ntrain_dataset_task: {dataset_config: *d}\n",
        "train_dataset_task: {dataset_config: {data_loader: {dataset_dir: a}}}\n",
    ],
)
def test_both_names_of_a_dataset_may_be_overridden(write, text, name):
    run = read_run(write(text), overrides=[f"{name}.data_loader.dataset_dir=b", f"{name}.batch_size=3"])
    assert (run.train_dataset.data_loader.dataset_dir, run.train_dataset.batch_size) == ("b", 3)


def test_an_override_reaches_a_dataset_and_not_its_alias(write):
    text = "train_dataset: &d {data_loader: {dataset_dir: a}}\neval_dataset: *d\n"
    run = read_run(write(text), overrides=["eval_dataset.data_loader.dataset_dir=b"])
    assert (run.train_dataset.data_loader.dataset_dir, run.eval_dataset.data_loader.dataset_dir) == ("a", "b")


def test_every_flag_sets_a_key_that_exists(write):
    """A key that no section has would be refused; the values are the simplest each type takes."""
    values = {"use_parallel": "False", "run_mode": "eval", "device_target": "CPU", "predict_data": "[a]", "resume_training": "False"}
    flags = {
        "train_dataset_dir",
        "eval_dataset_dir",
        "load_checkpoint",
        "src_strategy_path_or_dir",
        "strategy_load_checkpoint",
        "output_dir",
    }
    plain = dict.fromkeys(flags, "x") | {"remote_save_url": ""}
    switches = dict.fromkeys(("do_eval", "auto_trans_ckpt", "only_save_strategy", "profile", "sink_mode"), "False")
    for flag, keys in RUN_MINDFORMER_FLAGS.items():
        value = (values | plain | switches).get(flag, "1")
        read_run(write(""), overrides=[f"{key}={value}" for key in keys])
    assert len(RUN_MINDFORMER_FLAGS) == 25
