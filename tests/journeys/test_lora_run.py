"""`codellama finetune` with `pet_config`: what is trained, what is written, and a stopped run that goes on bit for bit."""

import json

import numpy as np
import pytest
import train_case
import yaml

from mindformers_codellama.checkpoint.adapter_format import read_adapter
from mindformers_codellama.checkpoint.ckpt_format import read_ckpt
from mindformers_codellama.cli.main import main
from mindformers_codellama.config.read import read_run
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.train.run import train

PET = {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ".*wq|.*wv|.*w2"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A trained toy model and its data."""
    folder = tmp_path_factory.mktemp("lora")
    data = train_case.write_data(folder / "d.mindrecord")
    train(read_run(train_case.write_config(folder / "base.yaml", data, folder / "base")))
    return folder


def write(base, path, output, *, pet=PET, **change):
    data = base / "d.mindrecord"
    settings = {"run_mode": "finetune", "load_checkpoint": str(base / "base" / "checkpoint_network")}
    config = train_case.config(data, output, **settings | change)
    config["model"]["model_config"]["pet_config"] = pet
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, base):
    """With dropout; saved after steps 4 and 8 of 12, the third part made by a second command from the second save."""
    if choose_kernels() is None:
        pytest.skip("the kernel library cannot be used")
    whole = train(read_run(write(base, tmp_path / "w.yaml", tmp_path / "whole")))
    assert main(["finetune", str(write(base, tmp_path / "p.yaml", tmp_path / "parts"))]) == 0
    newest = train_case.newest(tmp_path / "parts")
    assert train_case.tensors(newest) == train_case.tensors(train_case.newest(tmp_path / "whole")), "a run repeats"
    newest.unlink()
    assert main(["finetune", str(tmp_path / "p.yaml"), "--resume"]) == 0
    assert train_case.losses(tmp_path / "parts") == train_case.losses(tmp_path / "whole")
    assert train_case.tensors(newest) == train_case.tensors(train_case.newest(tmp_path / "whole"))
    assert whole.adapter == tmp_path / "whole" / "adapter"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "parts" / "adapter" / name).read_bytes() == (whole.adapter / name).read_bytes()


def test_only_the_adapter_is_trained_saved_and_moved(tmp_path, base):
    found = train(read_run(write(base, tmp_path / "l.yaml", tmp_path / "l", pet=PET | {"lora_dropout": 0.0})))
    saved = read_ckpt(train_case.newest(tmp_path / "l"))
    tensors = [name for name, value in saved.items() if isinstance(value, np.ndarray) and value.ndim == 2]
    layers = ["attention.wq", "attention.wv", "feed_forward.w2"]
    names = [f"model.layers.0.{layer}.mindpet_delta_lora_{side}" for layer in layers for side in "AB"]
    assert sorted(tensors) == sorted([*names, *(f"{prefix}.{name}" for prefix in ("adam_m", "adam_v") for name in names)])
    before = read_ckpt(next((base / "base" / "checkpoint_network" / "rank_0").glob("*.ckpt")))
    for parameter in found.network.get_parameters():
        if parameter.name in before:
            assert np.array_equal(parameter.asnumpy(), before[parameter.name]), parameter.name
    adapter = read_adapter(found.adapter)
    assert sorted(adapter.weights) == [f"model.layers.0.{layer}.weight" for layer in layers]
    assert np.abs(adapter.weights["model.layers.0.feed_forward.w2.weight"].b).max() > 1e-3, "B has left zero"
    assert found.network_checkpoint is None
    assert json.loads((found.adapter / "adapter_config.json").read_text())["lora_alpha"] == 8


@pytest.mark.slow
def test_a_resumed_adapter_must_be_the_same_and_lie_on_the_same_model(tmp_path, base, capsys):
    path = write(base, tmp_path / "l.yaml", tmp_path / "l", pet=PET | {"lora_dropout": 0.0})
    assert main(["finetune", str(path)]) == 0
    wrong = {
        "model.model_config.pet_config.lora_alpha=9": "pet_config, or the weights below the adapter, differ",
        "model.model_config.pet_config.lora_rank=5": "pet_config, or the weights below the adapter, differ",
        f"load_checkpoint={other_model(base)}": "pet_config, or the weights below the adapter, differ",
    }
    for override, words in wrong.items():
        assert main(["finetune", str(path), "--resume", "--set", override]) != 0
        assert words in capsys.readouterr().err, override


def other_model(base):
    """The same sizes, other weights."""
    if not (base / "other").exists():
        train(read_run(train_case.write_config(base / "o.yaml", base / "d.mindrecord", base / "other", seed=6)))
    return base / "other" / "checkpoint_network"


@pytest.mark.slow
def test_evaluation_during_training_counts_the_adapter(tmp_path, base):
    """The loss on the training rows after the last step is below that of the model without its adapter."""
    data = {"data_loader": {"type": "MindDataset", "dataset_dir": str(base / "d.mindrecord")}, "input_columns": ["input_ids", "labels"]}
    asked = {"do_eval": True, "eval_step_interval": 12, "eval_dataset": data, "lr_schedule": {"learning_rate": 0.1}}
    pet = PET | {"lora_dropout": 0.0}
    trained = train(read_run(write(base, tmp_path / "a.yaml", tmp_path / "a", pet=pet, **asked)))
    still = train(read_run(write(base, tmp_path / "b.yaml", tmp_path / "b", pet=pet, **asked | {"lr_schedule": {"learning_rate": 0.0}})))
    assert trained.evaluation.loss < still.evaluation.loss - 0.005
