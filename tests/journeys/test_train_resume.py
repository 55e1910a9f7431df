"""A run killed at a step and resumed in a new process equals, bit for bit, the run that was never stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest
import train_case

from mindformers_codellama.config.read import read_run
from mindformers_codellama.train.run import train

ACCUMULATING = {
    # 24 rows / (2 * 3) = 4 steps per epoch; the scale grows every third step, so its counters matter
    "runner_config": {"epochs": 8, "batch_size": 2, "gradient_accumulation_steps": 3},
    "runner_wrapper": {
        "scale_sense": {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 64, "scale_factor": 2, "scale_window": 3},
    },
    "optimizer": {"type": "FP32StateAdamWeightDecay"},
    "callbacks": [{"type": "CheckpointMonitor", "prefix": "t", "save_checkpoint_steps": 5, "keep_checkpoint_max": 99}],
}
PLAIN = {
    "runner_config": {"epochs": 60, "batch_size": 4},
    "callbacks": [
        {"type": "MFLossMonitor", "per_print_times": 50},
        {"type": "CheckpointMointor", "prefix": "t", "save_checkpoint_steps": 60, "keep_checkpoint_max": 99, "exception_save": True},
    ],
}


def codellama(*words, **popen):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOG_v": "3"}
    return subprocess.Popen(
        [sys.executable, "-m", "mindformers_codellama.cli.main", *map(str, words)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen,
    )  # fmt: skip


def finish(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


@pytest.mark.parametrize(
    ("settings", "number"),
    [(PLAIN, signal.SIGINT), (ACCUMULATING, signal.SIGKILL)],
    ids=["Ctrl-C, saved where it stopped", "SIGKILL, accumulation and dynamic loss scale"],
)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, settings, number):
    data = train_case.write_data(tmp_path / "d.mindrecord")
    whole = train_case.write_config(tmp_path / "whole.yaml", data, tmp_path / "whole", **settings)
    parts = train_case.write_config(tmp_path / "parts.yaml", data, tmp_path / "parts", **settings)
    stopped = codellama("train", parts)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "parts" / "checkpoint" / "rank_0").glob("t_rank_0-*.ckpt")):
        assert stopped.poll() is None, stopped.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    stopped.send_signal(number)
    last_words, _ = stopped.communicate()
    train(read_run(whole))
    told = finish(codellama("train", parts, "--resume"))
    assert "resumed from" in told
    resumed_at = int(told.split("resumed from")[1].split(":")[1].split()[0])
    assert resumed_at < len(train_case.losses(tmp_path / "whole"))  # something was left to do
    if number == signal.SIGINT:
        assert stopped.returncode == 130
        assert f"stopped after step {resumed_at}; go on with --resume" in last_words
        assert "Traceback" not in last_words
    else:
        assert resumed_at % 5 == 0  # the last regular save

    assert train_case.losses(tmp_path / "parts") == train_case.losses(tmp_path / "whole")
    ours, theirs = train_case.tensors(train_case.newest(tmp_path / "parts")), train_case.tensors(train_case.newest(tmp_path / "whole"))
    assert len(ours) > 3 * 11
    assert ours == theirs
