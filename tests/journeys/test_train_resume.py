"""A run killed at a step and resumed in a new process equals, bit for bit, the run that was never stopped."""

import os
import signal
import subprocess
import sys

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
    "runner_config": {"epochs": 16, "batch_size": 4},
    "callbacks": [
        {"type": "MFLossMonitor", "per_print_times": 50},
        {"type": "CheckpointMointor", "prefix": "t", "save_checkpoint_steps": 60, "keep_checkpoint_max": 99, "exception_save": True},
    ],
}


STOPPED_INSIDE = """
import os, sys
from mindformers_codellama.cli.main import main
from mindformers_codellama.train import loop

number, stopped_step, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
make_step = loop._make_step

def hit(parts, state, *rest, **named):
    if state.step + 1 == stopped_step:
        os.kill(os.getpid(), number)
    return make_step(parts, state, *rest, **named)

loop._make_step = hit
sys.exit(main(words))
"""
"""A run that is sent a signal while it makes a given step: however busy the machine, always the same one."""


def codellama(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOG_v": "3"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "number", "stopped_step", "resumed_at"),
    [(PLAIN, signal.SIGINT, 77, 77), (ACCUMULATING, signal.SIGKILL, 18, 15)],
    ids=["Ctrl-C, saved where it stopped", "SIGKILL, accumulation and dynamic loss scale"],
)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, settings, number, stopped_step, resumed_at):
    data = train_case.write_data(tmp_path / "d.mindrecord")
    whole = train_case.write_config(tmp_path / "whole.yaml", data, tmp_path / "whole", **settings)
    parts = train_case.write_config(tmp_path / "parts.yaml", data, tmp_path / "parts", **settings)
    stopped = codellama("-c", STOPPED_INSIDE, int(number), stopped_step, "train", parts)
    train(read_run(whole))
    assert len(train_case.losses(tmp_path / "whole")) > resumed_at  # something was left to do
    if number == signal.SIGINT:
        assert stopped.returncode == 130, stopped.stdout
        assert f"stopped after step {resumed_at}; go on with --resume" in stopped.stdout
        assert "Traceback" not in stopped.stdout
    else:
        assert stopped.returncode == -number, stopped.stdout
        assert resumed_at % 5 == 0  # the last regular save
    resumed = codellama("-m", "mindformers_codellama.cli.main", "train", parts, "--resume")
    assert resumed.returncode == 0, resumed.stdout
    assert int(resumed.stdout.split("resumed from")[1].split(":")[1].split()[0]) == resumed_at

    assert train_case.losses(tmp_path / "parts") == train_case.losses(tmp_path / "whole")
    ours, theirs = train_case.tensors(train_case.newest(tmp_path / "parts")), train_case.tensors(train_case.newest(tmp_path / "whole"))
    assert len(ours) > 3 * 11
    assert ours == theirs
