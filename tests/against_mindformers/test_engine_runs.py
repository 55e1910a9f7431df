"""`engine: mindformers` from the command line: whole runs through MindFormers' own Trainer beside the native engine.

Each run is a process of its own, as MindFormers keeps its context for good. Bounds: 1e-5 on weights up to 1 and on losses
of about 3 after 12 steps of Adam, whose division by small second moments enlarges float32 roundings (2e-6 after 5 steps,
test_train.py); another learning rate differs by more than a hundred times that.
"""

import json
import socket
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest
import yaml

from mindformers_codellama.checkpoint.ckpt_format import read_ckpt, write_ckpt
from mindformers_codellama.checkpoint.convert import convert
from mindformers_codellama.config.read import read_run
from mindformers_codellama.layout.parameters import parameter_shapes

sys.path.insert(0, str(Path(__file__).parents[1] / "journeys"))
from train_case import SEQ, write_config, write_data

pytestmark = pytest.mark.mindformers
if not any(found.name == "mindformers" for found in distributions()):  # importing it takes seconds and writes ./output/log
    pytest.skip("needs the [mindformers] extra", allow_module_level=True)

BOUND = 1e-5
CODELLAMA = [sys.executable, "-m", "mindformers_codellama.cli.main"]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Data, a start and a configuration in one folder; the last ids of some rows are padding."""
    folder = tmp_path_factory.mktemp("engine")
    write_data(folder / "train.mindrecord", rows=24)
    write_data(folder / "eval.mindrecord", rows=12, labels=None, seq=SEQ - 1, seed=3)
    write_config(
        folder / "run.yaml",
        folder / "train.mindrecord",
        folder / "out",
        engine="mindformers",
        run_mode="finetune",
        load_checkpoint=str(folder / "start.ckpt"),
        train_dataset={"data_loader": {"type": "MindDataset", "dataset_dir": str(folder / "train.mindrecord"), "shuffle": False}},
        eval_dataset={"data_loader": {"type": "MindDataset", "dataset_dir": str(folder / "eval.mindrecord"), "shuffle": False}},
    )
    config, rng = read_run(folder / "run.yaml").model.config, np.random.default_rng(5)
    weights = {name: rng.standard_normal(shape) * 0.2 + (len(shape) == 1) for name, shape in parameter_shapes(config).items()}
    write_ckpt(folder / "start.ckpt", ((name, value.astype(np.float32)) for name, value in weights.items()))
    return folder


def codellama(case, *words):
    done = subprocess.run([*CODELLAMA, *words], cwd=case, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def finetune(case, name, *overrides):
    """Run in `case/name`; the weights at its end."""
    sets = [word for override in (f"output_dir={case / name}", *overrides) for word in ("--set", override)]
    codellama(case, "train", "run.yaml", *sets)
    return final_weights(case / name)


def final_weights(output):
    files = list((output / "checkpoint" / "rank_0").glob("t_rank_0*-*.ckpt"))
    newest = max(files, key=lambda file: tuple(map(int, file.stem.rsplit("-", 1)[1].split("_"))))
    return {name: np.asarray(value) for name, value in read_ckpt(newest).items() if name.startswith(("model.", "lm_head"))}


def distance(one, other):
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


VARIANTS = {
    "adamw": [],
    "old adam, dynamic loss scale": [
        "optimizer={type: FP32StateAdamWeightDecay, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1}",
        "runner_wrapper={type: MFTrainOneStepCell, scale_sense: {type: DynamicLossScaleUpdateCell, scale_window: 3}, use_clip_grad: True}",
        "train_dataset.input_columns=[input_ids, labels]",
        "lr_schedule.type=LinearWithWarmUpLR",
    ],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_trainer_ends_with_the_weights_of_the_native_engine(case, variant):
    name = variant.split(",")[0].replace(" ", "_")
    theirs = finetune(case, f"theirs_{name}", *VARIANTS[variant])
    ours = finetune(case, f"ours_{name}", "engine=native", *VARIANTS[variant])
    error = distance(theirs, ours)
    print(f"{variant}: {error:.1e}")
    assert error < BOUND
    if variant == "adamw":
        broken = finetune(case, "broken", "engine=native", "lr_schedule.learning_rate=0.03")
        assert distance(broken, theirs) > 100 * BOUND


def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(case):
    whole = final_weights(case / "theirs_adamw") if (case / "theirs_adamw").is_dir() else finetune(case, "theirs_adamw")
    stopped = [f"output_dir={case / 'stopped'}", "lr_schedule.total_steps=12"]
    half = finetune(case, "stopped", *stopped, "runner_config.epochs=1")
    words = [word for override in stopped for word in ("--set", override)]
    codellama(case, "train", "run.yaml", "--resume", *words)
    assert distance(half, whole) > 100 * BOUND
    assert distance(final_weights(case / "stopped"), whole) < BOUND


def test_both_evaluate_what_its_trainer_saved_and_agree(case):
    if not (case / "theirs_adamw").is_dir():
        finetune(case, "theirs_adamw")
    words = ["evaluate", "run.yaml", "--json", "--set", f"load_checkpoint={case / 'theirs_adamw'}"]
    theirs = json.loads(codellama(case, *words).stdout.splitlines()[-1])
    ours = json.loads(codellama(case, *words, "--set", "engine=native").stdout.splitlines()[-1])
    assert theirs["engine"] == "mindformers"
    assert abs(theirs["loss"] - ours["loss"]) < BOUND
    assert 1 < ours["loss"] < 10


def test_it_predicts_the_native_engines_text_from_a_hugging_face_directory(case, tmp_path):
    settings = {"vocab_size": 2048, "hidden_size": 48, "num_layers": 2, "num_heads": 4, "n_kv_heads": 2, "intermediate_size": 64}
    kinds = dict.fromkeys(("compute_dtype", "softmax_compute_type", "rotary_dtype", "param_init_type"), "float32")
    model = settings | kinds | {"seq_length": 48, "theta": 1e6, "max_decode_length": 20, "do_sample": False}
    text = {"engine": "mindformers", "run_mode": "predict", "output_dir": "out", "trainer": {"model_name": "codellama_tiny"}}
    text |= {"context": {"device_target": "CPU"}, "model": {"model_config": model}, "load_checkpoint": "hf"}
    (tmp_path / "predict.yaml").write_text(yaml.safe_dump(text))
    config, rng = read_run(tmp_path / "predict.yaml").model.config, np.random.default_rng(1)
    weights = {name: rng.standard_normal(shape) * 0.2 + (len(shape) == 1) for name, shape in parameter_shapes(config).items()}
    write_ckpt(tmp_path / "start.ckpt", ((name, value.astype(np.float32)) for name, value in weights.items()))
    convert(tmp_path / "start.ckpt", tmp_path / "hf", to="hf", config=config)
    prompts = ["def add(a, b):", "import os"]
    done = codellama(tmp_path, "run", "--config", "predict.yaml", "--predict_data", *prompts)
    assert "load_checkpoint: converting hf (hf-safetensors) to out/for_mindformers/hf.ckpt for MindFormers" in done.stderr
    theirs = (tmp_path / "text_generation_result.txt").read_text()
    again = codellama(tmp_path, "predict", "predict.yaml", *prompts, "--json")
    assert "was converted to out/for_mindformers/hf.ckpt before" in again.stderr
    answers = json.loads(again.stdout.splitlines()[-1])["texts"]
    assert (tmp_path / "text_generation_result.txt.1").read_text() == theirs, "an older result is kept"
    assert [text.startswith(prompt) for text, prompt in zip(answers, prompts, strict=True)] == [True, True]
    ours = codellama(tmp_path, "predict", "predict.yaml", "--set", "engine=native", "--json", *prompts).stdout.splitlines()
    assert [json.loads(line)["text_generation_text"][0] for line in ours] == answers


def test_two_ranks_started_by_launch_train_as_one_with_both_their_rows(case):
    """Copies that average gradients: rows of equal length, so the mean of two means is the mean of all rows.

    MindFormers itself starts the communication between the ranks, and all start from the weights its seed gives.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parallel = [
        "--run_mode",
        "train",
        "--load_checkpoint",
        "",
        "--use_parallel",
        "True",
        "--parallel.parallel_mode",
        "0",
        "--parallel.gradients_mean",
        "True",
    ]
    parallel += ["--parallel_config.data_parallel", "2", "--output_dir", str(case / "two")]
    launch = ["launch", "--ranks", "2", "--master", f"127.0.0.1:{port}", "--log-dir", str(case / "logs")]
    codellama(case, *launch, "--", "run", "--config", "run.yaml", *parallel)
    one = finetune(case, "one", "run_mode=train", "load_checkpoint=", "runner_config.batch_size=8")
    assert distance(final_weights(case / "two"), one) < BOUND
