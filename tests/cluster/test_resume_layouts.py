"""Real ranks: save on 2x2x1, go on there, on one process and on 1x2x2; start from Hugging Face and from shards of another layout.

What a rank starts with is compared bit for bit with numpy slices of the whole tensors, which are put together from the
files of the stopped run by their boxes alone.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ranks import run_ranks
from training_case import config, write_data

from mindformers_codellama.checkpoint.ckpt_format import read_ckpt
from mindformers_codellama.checkpoint.safetensors_format import write_safetensors
from mindformers_codellama.checkpoint.tensors import ComputedTensor
from mindformers_codellama.checkpoint.weight_map import to_theirs
from mindformers_codellama.config.read import read_run
from mindformers_codellama.layout.cuts import run_model_layout

PROGRAM = Path(__file__).with_name("resume_program.py")
ZERO = {"enable_parallel_optimizer": True}
HALF, WHOLE = 3, 6
DYNAMIC = {"scale_sense": {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 64, "scale_factor": 2, "scale_window": 2}}
# two micro batches of two rows per step in all of them
LAYOUTS = {
    "2x2x1": {"degrees": {"data_parallel": 2, "model_parallel": 2, "vocab_emb_dp": False}, "batch_size": 1, "accumulate": 2},
    "1x1x1": {"degrees": None, "batch_size": 2, "accumulate": 2},
    "1x2x2": {"degrees": {"model_parallel": 2, "pipeline_stage": 2, "micro_batch_num": 2}, "batch_size": 2, "accumulate": 1},
}


class Jobs:
    """Starts cases and reads what they started from and left."""

    def __init__(self, folder):
        self.folder = folder
        self.data = write_data(folder / "data.mindrecord")
        self.configs = {}

    def case(self, name, layout, *, steps=WHOLE, epochs=1, **change):
        parts = LAYOUTS[layout]
        runner = {"epochs": epochs, "batch_size": parts["batch_size"], "gradient_accumulation_steps": parts["accumulate"]}
        monitor = {"type": "CheckpointMointor", "prefix": "t", "save_checkpoint_steps": HALF, "keep_checkpoint_max": 9}
        settings = config(
            self.data, self.folder / name, model={"num_layers": 2}, runner=runner, parallel_config=parts["degrees"],
            parallel=ZERO if parts["degrees"] else None, runner_wrapper=DYNAMIC, callbacks=[{"type": "MFLossMonitor"}, monitor], **change,
        )  # fmt: skip
        settings["train_dataset"]["data_loader"]["num_samples"] = 4 * steps
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        self.configs[name] = path
        return {"config": str(path), "dump": str(self.folder / "dumps" / name)}

    def resume(self, name, layout, source, **change):
        return self.case(name, layout, resume_training=True, load_checkpoint=str(source), **change)

    def run(self, cases, ranks):
        file = self.folder / f"cases_{len(self.configs)}.json"
        file.write_text(json.dumps(cases))
        if ranks > 1:
            return run_ranks([str(PROGRAM), str(file)], ranks, self.folder / f"logs_{file.stem}", timeout=900).check().logs
        done = subprocess.run([sys.executable, str(PROGRAM), str(file)], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return [done.stdout]

    def copy(self, source, name, *, upto):
        """The checkpoints of a run up to a step, as a kill would leave them."""
        shutil.copytree(self.folder / source / "checkpoint", self.folder / name / "checkpoint")
        for path in (self.folder / name / "checkpoint").glob("rank_*/*.ckpt"):
            if int(path.stem.rsplit("_", 1)[1]) > upto:
                path.unlink()
        return self.folder / name

    def whole(self, name, step, *, source=""):
        """Whole weights and moments after a step, from the files of all ranks."""
        model_layout = run_model_layout(read_run(self.configs[name]))
        tensors = {}
        for rank in range(model_layout.layout.ranks):
            values = read_ckpt(self.folder / (source or name) / "checkpoint" / f"rank_{rank}" / f"t_rank_{rank}-1_{step}.ckpt")
            for tensor, value in values.items():
                weight = tensor.removeprefix("adam_m.").removeprefix("adam_v.")
                if weight in model_layout.shapes:
                    box = model_layout.box(tensor, rank)
                    tensors.setdefault(tensor, np.full(model_layout.shapes[weight], np.nan, np.float32))[box.slices] = value
        assert not any(np.isnan(value).any() for value in tensors.values())
        return tensors, values

    def check_start(self, name, tensors, *, step=None):
        """What every rank of a case started with is its slices of these tensors."""
        model_layout = run_model_layout(read_run(self.configs[name]))
        for rank in range(model_layout.layout.ranks):
            found = np.load(self.folder / "dumps" / name / f"rank_{rank}.npz")
            names = [item for item in found.files if item in tensors]
            others = {"__state__", *(item for item in found.files if step is None and item.startswith("adam_"))}
            assert set(found.files) - set(names) <= others
            assert len(names) >= 5
            for item in names:
                assert (found[item] == tensors[item][model_layout.box(item, rank).slices]).all(), (name, rank, item)
            if step is not None:
                assert found["__state__"][0] == step
        return found["__state__"]


def hugging_face(folder, settings, seed=11):
    """A directory as transformers writes it, with its values by our names."""
    sizes = run_model_layout(read_run(settings))
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(shape).astype(np.float32) * 0.02 for name, shape in sizes.shapes.items()}
    folder.mkdir()
    write_safetensors(
        folder / "model.safetensors",
        {to_theirs(name): ComputedTensor(value.shape, "float32", lambda value=value: value) for name, value in values.items()},
        metadata={"format": "pt"},
    )
    config = sizes.config
    hf = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
          "intermediate_size": config.intermediate_size, "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
          "num_key_value_heads": config.num_kv_heads, "rms_norm_eps": config.rms_norm_eps, "rope_theta": config.rope_theta,
          "max_position_embeddings": config.max_position, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1,
          "eos_token_id": 2, "torch_dtype": "float32"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(hf))
    return values


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    made = Jobs(tmp_path_factory.mktemp("resume"))
    folder = made.folder
    straight = made.case("straight", "2x2x1")
    made.weights = hugging_face(folder / "hf", made.configs["straight"])
    from_hf = made.case("from_hf", "1x2x2", steps=1, run_mode="finetune", load_checkpoint=str(folder / "hf"), auto_trans_ckpt=True)
    made.run([straight, from_hf], 4)
    kept = made.copy("straight", "kept", upto=HALF)
    made.run([made.resume("alone", "1x1x1", kept, auto_trans_ckpt=True)], 1)
    again = made.copy("straight", "again", upto=HALF)
    damaged = made.copy("straight", "damaged", upto=WHOLE)
    bad = damaged / "checkpoint" / "rank_2" / f"t_rank_2-1_{WHOLE}.ckpt"
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 1
    bad.write_bytes(data)
    transformed = folder / "from_hf" / "transformed_checkpoint" / "hf"
    made.logs = made.run(
        [
            made.resume("again", "2x2x1", again),
            made.resume("staged", "1x2x2", kept, auto_trans_ckpt=True),
            made.resume("chained", "1x2x2", folder / "alone", epochs=2),
            made.resume("damaged", "2x2x1", damaged),
            made.case("from_shards", "1x2x2", steps=1, run_mode="finetune", load_checkpoint=str(kept), auto_trans_ckpt=True),
            made.case("from_transformed", "1x2x2", steps=1, run_mode="finetune", load_checkpoint=str(transformed)),
        ],
        4,
    )
    return made


def test_stopped_and_resumed_on_four_ranks_equals_straight_through_to_the_bit(jobs):
    middle, values = jobs.whole("straight", HALF)
    state = jobs.check_start("again", middle, step=HALF)
    assert state[2] == values["loss_scale"]
    straight, resumed = jobs.whole("straight", WHOLE)[0], jobs.whole("again", WHOLE)[0]
    assert all((straight[name] == resumed[name]).all() for name in straight)


@pytest.mark.parametrize(("name", "source"), [("alone", "kept"), ("staged", "kept")])
def test_resumed_on_another_layout_weights_and_optimizer_state_are_identical(jobs, name, source):
    middle, values = jobs.whole("straight", HALF, source=source)
    state = jobs.check_start(name, middle, step=HALF)
    assert state.tolist()[1:3] == [values["global_step"][0], values["loss_scale"]]
    assert state.tolist()[3:] == [values["current_iterator_step"], values["last_overflow_iterator_step"]]


def test_the_chain_2x2x1_to_one_process_to_1x2x2_hands_on_the_same_bits(jobs):
    end, _ = jobs.whole("alone", WHOLE)
    jobs.check_start("chained", end, step=WHOLE)


@pytest.mark.parametrize("name", ["alone", "staged"])
def test_a_run_that_goes_on_elsewhere_comes_to_the_same_weights(jobs, name):
    """Sums go in another order there: three steps of 0.01 with eps 1e-4 move weights apart by rounding only (as training_two argues)."""
    straight, other = jobs.whole("straight", WHOLE)[0], jobs.whole(name, WHOLE)[0]
    weights = [key for key in straight if not key.startswith("adam_")]
    assert max(abs(straight[key] - other[key]).max() for key in weights) < 1e-5
    moved = jobs.whole("straight", HALF)[0]
    assert max(abs(straight[key] - moved[key]).max() for key in weights) > 1e-3


def test_one_damaged_file_sends_every_rank_to_the_step_before(jobs):
    middle, _ = jobs.whole("straight", HALF)
    jobs.check_start("damaged", middle, step=HALF)
    told = [line for log in jobs.logs for line in log.splitlines() if "passed over: " in line]
    assert len(told) == 1, told
    assert f"t_rank_2-1_{WHOLE}.ckpt" in told[0]


def test_auto_trans_ckpt_cuts_a_hugging_face_directory_and_leaves_the_parts(jobs):
    jobs.check_start("from_hf", jobs.weights)
    files = sorted((jobs.folder / "from_hf" / "transformed_checkpoint" / "hf").glob("rank_*/*"))
    assert [f"{file.parent.name}/{file.name}" for file in files] == [f"rank_{rank}/checkpoint_{rank}.ckpt" for rank in range(4)]
    jobs.check_start("from_transformed", jobs.weights)


def test_auto_trans_ckpt_cuts_shards_of_another_layout(jobs):
    whole = jobs.whole("straight", HALF)[0]
    jobs.check_start("from_shards", {name: value for name, value in whole.items() if not name.startswith("adam_")})


def test_strategy_files_of_every_rank_are_written(jobs):
    names = sorted(path.name for path in (jobs.folder / "straight" / "strategy").iterdir())
    assert names == [f"ckpt_strategy_rank_{rank}.ckpt" for rank in range(4)]
