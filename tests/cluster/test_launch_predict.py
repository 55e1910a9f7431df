"""scripts/run_predict.sh as MindFormers' page has it: predict_custom.py on two ranks answers as on one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import free_port

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.config.read import read_run
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.model.initial import initial_value

ROOT = Path(__file__).resolve().parents[2]
ONE = (
    (ROOT / "configs/codellama/predict_codellama_tiny.yaml")
    .read_text(encoding="utf-8")
    .replace("num_layers: 4", "num_layers: 1")
    .replace("max_decode_length: 256", "max_decode_length: 40")
)
TWO = ONE.replace("use_parallel: False", "use_parallel: True").replace("model_parallel: 1", "model_parallel: 2")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "one.yaml").write_text(ONE, encoding="utf-8")
    (tmp_path / "two.yaml").write_text(TWO, encoding="utf-8")
    shapes = parameter_shapes(read_run(tmp_path / "one.yaml").model.config)
    values = ((name, initial_value(name, shape, 7, std=0.08)) for name, shape in shapes.items())
    write_ckpt(tmp_path / "weights.ckpt", values)
    return tmp_path


def run(folder, *words, **env):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run([*map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_ranks_answer_as_one(folder):
    tool = [sys.executable, ROOT / "tools/hccl_tools.py", "--device_num", "[0,2)", "--server_ip", "127.0.0.1", "--simulate"]
    run(folder, *tool)
    words = ["hccl_2p_01_127.0.0.1.json", "weights.ckpt", "two.yaml", "codellama_tiny", 2, 0]
    flags = f"--master 127.0.0.1:{free_port()}"
    shown = run(folder, "bash", ROOT / "scripts/run_predict.sh", *words, CODELLAMA_LAUNCH_FLAGS=flags)
    program = [sys.executable, ROOT / "scripts/predict_custom.py", "--checkpoint_path", "weights.ckpt", "--model_type", "codellama_tiny"]
    alone = run(folder, *program, "--yaml_file", "one.yaml")
    assert alone.count("<s>def ") == 2
    assert alone in shown
    for rank in (0, 1):
        assert alone in (folder / f"mindformers_{rank}.log").read_text()
    assert "[WARNING] DISTRIBUTED" in (folder / "mindformers_0.log").read_text()
    assert "[WARNING] DISTRIBUTED" not in shown


def test_what_is_wrong_is_told_in_one_line_without_a_traceback(folder):
    with open(folder / "weights.ckpt", "r+b") as weights:
        weights.truncate(1000)
    program = [sys.executable, str(ROOT / "scripts/predict_custom.py"), "--yaml_file", "one.yaml", "--checkpoint_path", "weights.ckpt"]
    for model, code, said in (("nothing", 5, "nothing: is neither"), ("codellama_tiny", 3, "weights.ckpt: is")):
        done = subprocess.run([*program, "--model_type", model], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code
        assert f"codellama: error: {said}" in done.stderr
        assert "Traceback" not in done.stderr
