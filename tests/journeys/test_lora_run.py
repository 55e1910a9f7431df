"""`codellama finetune` with `pet_config`: what is trained, what is written, and a stopped run that goes on bit for bit."""

import json

import numpy as np
import pytest
import train_case
import yaml

from mindformers_codellama.checkpoint.adapter_config import AdapterConfig
from mindformers_codellama.checkpoint.adapter_format import read_adapter, write_adapter
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


def test_a_dry_run_refuses_what_the_run_would(tmp_path, base, capsys):
    write_adapter(tmp_path / "adapter", AdapterConfig(rank=2, alpha=4.0, dropout=0.0, base_model="base"), {})
    wrong = {
        f"load_checkpoint={tmp_path / 'adapter'}": "is a low-rank adapter, not a model. Fix: name the model it was trained on",
        f"load_checkpoint={tmp_path / 'nowhere'}": "nowhere: does not exist",
        "model.model_config.hidden_size=32": "has shape [40, 16], the model needs [40, 32]",
        f"output_dir={base / 'base'}": "already holds",
    }
    ranks = ["use_parallel=True", "parallel_config.data_parallel=2", "model.model_config.pet_config.lora_dropout=0"]
    path = write(base, tmp_path / "l.yaml", tmp_path / "l")
    config = yaml.safe_load(path.read_text())
    config["model"]["model_config"]["pet_config"] = None
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(config))
    for override, words in wrong.items():
        for file, others in ((path, []), (path, ranks), (tmp_path / "whole.yaml", [])):
            flags = [word for change in (override, *others) for word in ("--set", change)]
            assert main(["finetune", str(file), "--dry-run", *flags]) != 0, (override, others)
            assert words in capsys.readouterr().err, (override, others)
    assert main(["finetune", str(path), "--dry-run", *(word for change in ranks for word in ("--set", change))]) == 0
    told = capsys.readouterr().out
    cut = ["use_parallel=True", "parallel_config.model_parallel=2"]
    for name, code in (("base/checkpoint_network", 0), ("nowhere", 3)):
        flags = [word for change in (f"load_checkpoint={base / name}", *cut) for word in ("--set", change)]
        assert main(["finetune", str(tmp_path / "whole.yaml"), "--dry-run", *flags]) == code
    assert "ranks: 2 (data 2, model 1, stages 1)" in told
    assert f"checkpoints: {tmp_path / 'l' / 'checkpoint' / 'rank_0'}, written by rank 0" in told
    assert f"starts from the weights in {base / 'base' / 'checkpoint_network'}" in told


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
