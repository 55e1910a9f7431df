"""A run killed at a step and resumed in a new process equals, bit for bit, the run that was never stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest
import train_case

ACCUMULATING = {
    # 24 rows / (2 * 3) = 4 steps per epoch; the scale grows every third step, so its counters matter
    "runner_config": {"epochs": 8, "batch_size": 2, "gradient_accumulation_steps": 3},
    "runner_wrapper": {
        "scale_sense": {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 64, "scale_factor": 2, "scale_window": 3},
    },
    "optimizer": {"type": "FP32StateAdamWeightDecay"},
    "callbacks": [{"type": "CheckpointMonitor", "prefix": "t", "save_checkpoint_steps": 5, "keep_checkpoint_max": 99}],
}
PLAIN = {"runner_config": {"epochs": 6, "batch_size": 4}}


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


@pytest.mark.parametrize("settings", [PLAIN, ACCUMULATING], ids=["plain", "accumulation and dynamic loss scale"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, settings):
    data = train_case.write_data(tmp_path / "d.mindrecord")
    whole = train_case.write_config(tmp_path / "whole.yaml", data, tmp_path / "whole", **settings)
    parts = train_case.write_config(tmp_path / "parts.yaml", data, tmp_path / "parts", **settings)
    stopped = codellama("train", parts)
    first = 5 if settings is ACCUMULATING else 4
    deadline = time.monotonic() + 200
    while not list((tmp_path / "parts" / "checkpoint" / "rank_0").glob("t_rank_0-*.ckpt")):
        assert stopped.poll() is None, stopped.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    stopped.send_signal(signal.SIGKILL)
    stopped.communicate()
    finish(codellama("train", whole))
    told = finish(codellama("train", parts, "--resume"))
    assert "resumed from" in told
    resumed_at = int(told.split("resumed from")[1].split(":")[1].split()[0])
    assert resumed_at % first == 0
    assert resumed_at < len(train_case.losses(tmp_path / "whole"))  # something was left to do

    assert train_case.losses(tmp_path / "parts") == train_case.losses(tmp_path / "whole")
    ours, theirs = train_case.tensors(train_case.newest(tmp_path / "parts")), train_case.tensors(train_case.newest(tmp_path / "whole"))
    assert len(ours) > 3 * 11
    assert ours == theirs
