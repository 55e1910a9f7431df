"""Cases of parallel training beside one process that does the same, and what both left behind."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from ranks import run_ranks

from mindformers_codellama.checkpoint.ckpt_format import read_ckpt
from mindformers_codellama.config.read import read_run
from mindformers_codellama.data.mindrecord import write_rows
from mindformers_codellama.layout.cuts import run_model_layout
from mindformers_codellama.train.batch_plan import plan_batches

SEQ, VOCAB, ROWS = 16, 40, 240
PROGRAM = Path(__file__).with_name("training_program.py")
STEPS = 10


def write_data(path, *, masked=True, rows=ROWS):
    """Rows of arithmetic ids; with `masked` each row trains on another number of them, some on none."""
    rng = np.random.default_rng(3)
    items = []
    for _ in range(rows):
        ids = ((rng.integers(0, 30) + rng.integers(1, 4) * np.arange(SEQ + 1)) % (VOCAB - 3) + 3).astype(np.int32)
        labels = ids.copy()
        if masked:
            labels[: rng.integers(0, SEQ + 2)] = -100
        items.append({"input_ids": ids, "labels": labels})
    write_rows(path, iter(items), columns=["input_ids", "labels"], description="test", force=True)
    return path


def config(data, output, *, model=None, parallel_config=None, parallel=None, runner=None, **change):
    """A configuration of ten steps as a dict; sections named in `change` are merged."""
    base = {
        "seed": 5,
        "output_dir": str(output),
        "run_mode": "train",
        "runner_config": {"epochs": 1, "batch_size": 4, "sink_mode": False} | (runner or {}),
        # eps is far above the rounding of gradients (1e-8), which Adam would blow up to the size of a step
        "optimizer": {"type": "AdamW", "beta1": 0.9, "beta2": 0.95, "eps": 1e-4, "weight_decay": 0.1},
        "lr_schedule": {"type": "CosineWithWarmUpLR", "learning_rate": 0.01, "warmup_steps": 2, "total_steps": 40},
        "train_dataset": {"data_loader": {"type": "MindDataset", "dataset_dir": str(data)}, "input_columns": ["input_ids", "labels"]},
        "callbacks": [{"type": "MFLossMonitor"}, {"type": "CheckpointMointor", "prefix": "t", "save_checkpoint_steps": 1000}],
        "context": {"mode": 0, "device_target": "CPU", "runtime_num_threads": 1},
        "model": {
            "model_config": {
                "type": "LlamaConfig", "seq_length": SEQ, "vocab_size": VOCAB, "hidden_size": 32, "num_layers": 1, "num_heads": 4,
                "n_kv_heads": 2, "intermediate_size": 48, "compute_dtype": "float32", "softmax_compute_type": "float32",
                "rotary_dtype": "float32", "param_init_type": "float32",
            } | (model or {}),
            "arch": {"type": "LlamaForCausalLM"},
        },
        "runner_wrapper": {"type": "MFTrainOneStepCell", "scale_sense": 128.0, "use_clip_grad": True, "max_grad_norm": 0.5},
        "train_log": {"tensorboard": False, "plot": False},
    }  # fmt: skip
    if parallel_config is not None:
        base["use_parallel"] = True
        base["parallel_config"] = parallel_config
        base["parallel"] = {"parallel_mode": 1, "parallel_optimizer_config": {"parallel_optimizer_threshold": 0}} | (parallel or {})
    for key, value in change.items():
        base[key] = base.get(key, {}) | value if isinstance(value, dict) else value
    return base


class Runs:
    """Runs cases of as many ranks each in one program, and reads what they left."""

    def __init__(self, folder):
        self.folder = folder
        self.configs = {}
        self.logs = []

    def run(self, cases, ranks):
        """Train every case: name to (configuration, options of the program)."""
        listed = []
        for name, (settings, options) in cases.items():
            output = self.folder / name
            path = self.folder / f"{name}.yaml"
            path.write_text(yaml.safe_dump(settings | {"output_dir": str(output)}))
            rows = STEPS * plan_batches(read_run(path)).step_rows
            settings["train_dataset"]["data_loader"]["num_samples"] = rows
            path.write_text(yaml.safe_dump(settings | {"output_dir": str(output)}))
            self.configs[name] = path
            listed.append({"config": str(path), **options})
        file = self.folder / f"cases_{len(self.configs)}_{ranks}.json"
        file.write_text(json.dumps(listed))
        if ranks == 1:
            done = subprocess.run([sys.executable, str(PROGRAM), str(file)], capture_output=True, text=True, timeout=1500)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
            return done.stdout
        run = run_ranks([str(PROGRAM), str(file)], ranks, self.folder / f"logs_{file.stem}", timeout=1500)
        return run.check().logs

    def lines(self, name):
        """The log of the first ten steps."""
        lines = (self.folder / name / "log" / "train.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if "loss" in line][:STEPS]

    def evals(self, name):
        lines = map(json.loads, (self.folder / name / "log" / "train.jsonl").read_text().splitlines())
        return [line["eval_loss"] for line in lines if "eval_loss" in line]

    def tensors(self, name, *, check_copies=True):
        """Whole weights and moments, put together from the ranks' files; copies on several ranks must be equal."""
        run = read_run(self.configs[name])
        model_layout = run_model_layout(run)
        whole = {}
        for rank in range(model_layout.layout.ranks):
            files = list((self.folder / name / "checkpoint" / f"rank_{rank}").glob("t_rank_*.ckpt"))
            assert len(files) == 1, files
            values = read_ckpt(files[0])
            for weight in model_layout.names(model_layout.layout.place(rank).stage):
                for tensor in (weight, f"adam_m.{weight}", f"adam_v.{weight}"):
                    box = model_layout.box(tensor, rank)
                    assert values[tensor].shape == box.shape, (tensor, rank)
                    into = whole.setdefault(tensor, np.full(model_layout.shapes[weight], np.nan, np.float32))
                    seen = into[box.slices]
                    if check_copies and not np.isnan(seen).any():
                        apart = abs(seen - values[tensor]).max()
                        assert apart == 0, f"{tensor} differs between ranks, rank {rank} by {apart}"
                    into[box.slices] = values[tensor]
        assert not any(np.isnan(value).any() for value in whole.values())
        return whole


def differences(runs, name, reference, *, check_copies=True):
    """How far two runs are apart: losses, norms (both relative to their size), weights, and moments relative to their largest."""
    ours, theirs = runs.lines(name), runs.lines(reference)
    assert len(ours) == len(theirs) == STEPS
    assert [line["overflow"] for line in ours] == [line["overflow"] for line in theirs]
    assert [line["loss_scale"] for line in ours] == [line["loss_scale"] for line in theirs]
    assert [line["learning_rate"] for line in ours] == [line["learning_rate"] for line in theirs]
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if not a["overflow"]]
    found = {
        "loss": max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True)),
        "norm": max(abs(a["grad_norm"] - b["grad_norm"]) / b["grad_norm"] for a, b in both),
    }
    mine, other = runs.tensors(name, check_copies=check_copies), runs.tensors(reference)
    assert set(mine) == set(other)
    gaps = {key: np.abs(mine[key] - other[key]).max() for key in mine}
    sizes = {key: max(np.abs(other[key]).max(), 1e-12) for key in mine}
    found["weights"] = max(gap for key, gap in gaps.items() if not key.startswith("adam_"))
    found["moments"] = max(gap / sizes[key] for key, gap in gaps.items() if key.startswith("adam_"))
    return found
