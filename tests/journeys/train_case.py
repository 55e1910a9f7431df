"""A run small enough to train in seconds: its data, its configuration, and what it left behind."""

import json
from pathlib import Path

import numpy as np
import yaml

from mindformers_codellama.checkpoint.ckpt_format import read_ckpt
from mindformers_codellama.data.mindrecord import write_rows

SEQ, VOCAB = 8, 40


def write_data(path, *, rows=24, labels="ids", seq=SEQ, seed=2):
    """Mindrecord of arithmetic rows (each id is the one before plus a step), which a tiny model can learn."""
    rng = np.random.default_rng(seed)
    starts, steps = rng.integers(3, VOCAB, rows), rng.integers(1, 4, rows)
    ids = [((start - 3 + step * np.arange(seq + 1)) % (VOCAB - 3) + 3).astype(np.int32) for start, step in zip(starts, steps, strict=True)]
    if labels is None:
        items, columns = ({"input_ids": row} for row in ids), ["input_ids"]
    else:
        masked = np.full(seq + 1, -100, np.int32)
        items = ({"input_ids": row, "labels": row if labels == "ids" else masked} for row in ids)
        columns = ["input_ids", "labels"]
    write_rows(Path(path), items, columns=columns, description="test", force=True)
    return Path(path)


def config(data, output, **change):
    """The configuration as a dict; `change` replaces whole sections or, given a dict, single keys of them."""
    base = {
        "seed": 5,
        "output_dir": str(output),
        "run_mode": "train",
        "trainer": {"model_name": ""},
        "runner_config": {"epochs": 2, "batch_size": 4, "sink_mode": False},
        "optimizer": {"type": "AdamW", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1},
        "lr_schedule": {"type": "CosineWithWarmUpLR", "learning_rate": 0.02, "warmup_steps": 2, "total_steps": -1},
        "train_dataset": {"data_loader": {"type": "MindDataset", "dataset_dir": str(data)}, "input_columns": ["input_ids", "labels"]},
        "callbacks": [
            {"type": "MFLossMonitor"},
            {"type": "CheckpointMointor", "prefix": "t", "save_checkpoint_steps": 4, "keep_checkpoint_max": 9},
        ],
        "context": {"mode": 0, "device_target": "CPU", "runtime_num_threads": 1},
        "model": {
            "model_config": {
                "type": "LlamaConfig", "seq_length": SEQ, "vocab_size": VOCAB, "hidden_size": 16, "num_layers": 1, "num_heads": 2,
                "intermediate_size": 24, "compute_dtype": "float32", "softmax_compute_type": "float32", "rotary_dtype": "float32",
                "param_init_type": "float32",
            },
            "arch": {"type": "LlamaForCausalLM"},
        },
        "runner_wrapper": {"type": "MFTrainOneStepCell", "scale_sense": 1.0, "use_clip_grad": True},
        "train_log": {"tensorboard": False, "plot": False},
    }  # fmt: skip
    for key, value in change.items():
        base[key] = base.get(key, {}) | value if isinstance(value, dict) else value
    return base


def write_config(path, *args, **change):
    Path(path).write_text(yaml.safe_dump(config(*args, **change)))
    return Path(path)


def losses(output):
    lines = (Path(output) / "log" / "train.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


def tensors(path):
    """Bytes of every tensor of a checkpoint."""
    return {name: value.tobytes() for name, value in read_ckpt(path).items() if isinstance(value, np.ndarray)}


def newest(output, prefix="t"):
    files = (Path(output) / "checkpoint" / "rank_0").glob(f"{prefix}_rank_0-*.ckpt")
    return max(files, key=lambda file: tuple(map(int, file.stem.rsplit("-", 1)[1].split("_"))))
