"""An adapter on two data-parallel ranks: the numbers of one process, one checkpoint, and a stopped run that goes on bit for bit.

Bounds are those of `test_training_two`: ranks add the same numbers in another order. The model below the adapter is drawn here.
"""

import json

import numpy as np
import pytest
from training_case import STEPS, Runs, config, write_data

from mindformers_codellama.checkpoint.adapter_format import read_adapter
from mindformers_codellama.checkpoint.ckpt_format import read_ckpt, write_ckpt
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.layout.parameters import parameter_shapes

pytestmark = pytest.mark.timeout(900)
BOUNDS = {"loss": 1e-5, "norm": 1e-5, "weights": 1e-5, "moments": 3e-5}
PET = {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ".*wq|.*wv|.*w2"}
OFF = {"kernels": "off"}
ZERO = {"enable_parallel_optimizer": True}


def write_base(path):
    """Weights of the model of `training_case.config`."""
    rng = np.random.default_rng(7)
    sizes = ModelConfig(vocab_size=40, hidden_size=32, num_layers=1, num_heads=4, num_kv_heads=2, intermediate_size=48, seq_length=16)
    shapes = parameter_shapes(sizes)
    write_ckpt(path, ((name, rng.standard_normal(shape).astype(np.float32) * 0.2) for name, shape in shapes.items()))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    data, base = write_data(folder / "d.mindrecord"), str(write_base(folder / "base.ckpt"))

    def case(ranks, *, accumulate=1, parts=1, epochs=1, go_on="", parallel=None, compute="float32", **change):
        """Eight rows per step; `go_on` names a case to resume."""
        runner = {"batch_size": 8 // ranks // parts, "gradient_accumulation_steps": accumulate, "epochs": epochs}
        model = {"pet_config": PET, "compute_dtype": compute, "checkpoint_name_or_path": base}
        start = {"resume_training": True, "load_checkpoint": str(folder / go_on)} if go_on else {"load_checkpoint": base}
        degrees = {"data_parallel": ranks} if ranks * parts > 1 else None
        settings = config(data, "", runner=runner, model=model, parallel_config=degrees, parallel=parallel, **start, **change)
        return settings | {"run_mode": "finetune", "micro_batch_interleave_num": parts}

    made = Runs(folder)
    made.run(
        {
            "one": (case(1, epochs=2), {}),
            "one_half": (case(1), {}),
            "one_accumulated": (case(1, accumulate=2), {}),
            "one_parts": (case(1, parts=2), {}),
            "one_off": (case(1, **OFF), {}),
            "one_narrow": (case(1, compute="bfloat16"), {}),
        },
        1,
    )
    made.logs = made.run(
        {
            "two": (case(2, epochs=2), {}),
            "two_half": (case(2, parallel=ZERO), {}),
            "two_again": (case(2, epochs=2, go_on="two_half"), {}),
            "two_from_one": (case(2, epochs=2, go_on="one_half"), {}),
            "two_accumulated": (case(2, accumulate=2), {}),
            "two_parts": (case(2, parts=2), {}),
            "two_off": (case(2, **OFF), {}),
            "two_narrow": (case(2, compute="bfloat16"), {}),
            "sum_left_out": (case(2), {"break": "sum"}),
        },
        2,
    )
    made.run({"one_from_two": (case(1, epochs=2, go_on="two_half"), {})}, 1)
    return made


def tensors(runs, name):
    """A, B and their moments after the last step, from the one file of the run."""
    (file,) = (runs.folder / name / "checkpoint").glob("rank_*/t_rank_*.ckpt")
    assert file.parent.name == "rank_0"
    return {key: value for key, value in read_ckpt(file).items() if isinstance(value, np.ndarray) and value.ndim == 2}


def lines(runs, name):
    text = (runs.folder / name / "log" / "train.jsonl").read_text()
    return {line["step"]: line for line in map(json.loads, text.splitlines()) if "loss" in line}


def apart(runs, name, reference):
    """Largest differences of a run from another one, in the units of `BOUNDS`."""
    ours, theirs = lines(runs, name), lines(runs, reference)
    mine, other = tensors(runs, name), tensors(runs, reference)
    assert set(mine) == set(other)
    assert len(mine) == 3 * 2 * len("vqw")
    both = sorted(set(ours) & set(theirs))
    assert len(both) >= STEPS
    gaps = {key: np.abs(mine[key] - other[key]).max() for key in mine}
    return {
        "loss": max(abs(ours[step]["loss"] - theirs[step]["loss"]) for step in both),
        "norm": max(abs(ours[step]["grad_norm"] / theirs[step]["grad_norm"] - 1) for step in both),
        "weights": max(gap for key, gap in gaps.items() if not key.startswith("adam_")),
        "moments": max(gap / np.abs(other[key]).max() for key, gap in gaps.items() if key.startswith("adam_")),
    }


PAIRS = [
    ("two", "one"),
    ("two_accumulated", "one_accumulated"),
    ("two_parts", "one_parts"),
    ("two_off", "one_off"),
    ("two_narrow", "one_narrow"),
]


@pytest.mark.parametrize(("name", "reference"), PAIRS)
def test_two_ranks_train_an_adapter_as_one_process_does(runs, name, reference):
    found = apart(runs, name, reference)
    assert all(found[key] <= bound for key, bound in BOUNDS.items()), found


def test_a_sum_left_out_is_seen(runs):
    assert apart(runs, "sum_left_out", "two_half")["weights"] > 100 * BOUNDS["weights"]


def test_a_stopped_run_goes_on_bit_for_bit(runs):
    whole, again = lines(runs, "two"), lines(runs, "two_again")
    assert sorted(again) == list(range(STEPS + 1, 2 * STEPS + 1))
    assert all(again[step]["loss"] == whole[step]["loss"] for step in again)
    mine, other = tensors(runs, "two_again"), tensors(runs, "two")
    assert all((mine[key] == other[key]).all() for key in other)


@pytest.mark.parametrize(("name", "reference"), [("two_from_one", "one"), ("one_from_two", "one")])
def test_a_run_goes_on_with_another_number_of_ranks(runs, name, reference):
    found = apart(runs, name, reference)
    assert all(found[key] <= bound for key, bound in BOUNDS.items()), found


def test_the_first_rank_alone_writes(runs):
    assert sorted(path.name for path in (runs.folder / "two").iterdir()) == ["adapter", "checkpoint", "log"]
    assert [path.name for path in (runs.folder / "two" / "checkpoint").iterdir()] == ["rank_0"]
    adapter, saved = read_adapter(runs.folder / "two" / "adapter"), tensors(runs, "two")
    for name, pair in adapter.weights.items():
        layer = name.removesuffix(".weight")
        assert (pair.a == saved[f"{layer}.mindpet_delta_lora_A"]).all()
        assert (pair.b == saved[f"{layer}.mindpet_delta_lora_B"]).all()
        assert np.abs(pair.b).max() > 1e-3, "B has left zero"
    assert "enable_parallel_optimizer: has no effect on an adapter" in runs.logs[0]
    assert "per_step_time" not in runs.logs[1]
