"""docs/export.md: its commands run on a tiny model of random weights, and the graphs answer as the model does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_codellama.cli.export import EXAMPLES
from mindformers_codellama.cli.main import build_parser, main
from mindformers_codellama.config.read import read_run

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "export.md").read_text(encoding="utf-8")
CONFIG = "configs/codellama/predict_codellama_tiny.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `tiny.ckpt`, and the project's `configs` and `run_mindformer.py`."""
    import mindspore as ms

    from mindformers_codellama.kernels.choose import plain_operators
    from mindformers_codellama.model.initial import init_parameters
    from mindformers_codellama.model.llama import LlamaNetwork

    folder = tmp_path_factory.mktemp("page")
    with plain_operators():
        network = LlamaNetwork(read_run(PROJECT / CONFIG).model.config)
    init_parameters(network, 0, std=0.15)
    ms.save_checkpoint(network, str(folder / "tiny.ckpt"))
    for name in ("configs", "run_mindformer.py"):
        (folder / name).symlink_to(PROJECT / name)
    return folder


def shell(text, folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CODELLAMA_LOG_LEVEL": "ERROR"}
    environment["PYTHONPATH"] = str(PROJECT)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_page_run(place):
    printed = [shell(block, place) for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)]
    assert len(printed) == 6
    assert "onnx/full.onnx" in printed.pop()
    assert "would write" in printed[0]
    assert printed[0].count("verified    ") == 2
    assert [text.count("verified    ") for text in printed[1:]] == [1, 3, 2, 2]
    assert {path.parent.parent.name for path in place.glob("*/export/manifest.json")} == {
        "mindir",
        "mf",
        "single",
        "paged",
        "int8",
        "fast",
        "fast_int8",
        "secret",
    }
    data = place / "mindir/mindir_full_checkpoint/rank_0_variables/data_0"
    assert data.stat().st_ino == (place / "mindir/mindir_inc_checkpoint/rank_0_variables/data_0").stat().st_ino
    small, large = (json.loads((place / name / "export/manifest.json").read_text())["files"][0]["size"] for name in ("int8", "mindir"))
    assert small < 0.45 * large
    live = shell(f'codellama predict {CONFIG} "def add(a, b):\\n" --load-checkpoint tiny.ckpt --max-length 40 --no-stream', place)
    answer = live.strip().splitlines()[-1]
    assert len(answer) > 20
    assert answer in printed[3], "the kernels' graphs, asked on the page"
    packed = shell('codellama predict packed "def add(a, b):\\n" --max-length 40 --no-stream', place).strip().splitlines()[-1]
    for name, key in (("mindir", ""), ("single", ""), ("paged", ""), ("mf", ""), ("secret", "--key_file mindir.key"), ("fast_int8", "")):
        command = f'codellama infer --model_dir {name} {key} --add_special_tokens True --predict_data "def add(a, b):\\n" --max_length 40'
        assert (packed if name == "fast_int8" else answer) in shell(command, place), name
    (python,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    check = "\nimport numpy as np\nprint(decoder.prefill(np.ones((1, 3), np.int32), np.array([3], np.int32)).shape)"
    assert shell(f"python - <<'END'\n{python}{check}\nEND", place).strip() == "(1, 2048)"


def test_the_commands_refuse_in_one_line(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    made, on_ascend = f"export {CONFIG} --output here", "--operators codellama-cpu --target ascend".split()
    cases = [
        (["export"], 2, "DIR: nothing to export is named."),
        ([*made.split()], 2, "load_checkpoint: there are no weights to export."),
        ([*made.split(), "--load-checkpoint", "none.ckpt"], 3, "none.ckpt: does not exist"),
        ([*made.split(), "--load-checkpoint", "tiny.ckpt", "--format", "air"], 2, "--format: got 'air': AIR is written by Ascend's own"),
        ([*made.split(), "--load-checkpoint", "tiny.ckpt", "--dtype", "bfloat16"], 2, "no bfloat16 matrix product.*--no-verify"),
        ([*made.split(), "--load-checkpoint", "tiny.ckpt", *on_ascend], 2, "--operators: got codellama-cpu for the target ascend"),
        (["export", "--verify-only", "none"], 3, "none/export/manifest.json: is missing"),
        (["run", "--config", CONFIG, "--run_mode", "export", "--model.model_config.use_past", "False"], 2, "use_past: got False"),
    ]
    for words, code, message in cases:
        assert main(words) == code
        told = capsys.readouterr().err
        assert re.search(message, told), told
    assert not (place / "here").exists(), "nothing was begun"


def test_the_configuration_says_what_flags_do_not(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["export", CONFIG, "--load-checkpoint", "tiny.ckpt", "--dry-run", "--json"]

    def planned(*more):
        assert main([*words, *more]) == 0
        return json.loads(capsys.readouterr().out)

    plain = planned()
    assert (plain["output"], plain["dynamic"], plain["rows"], plain["positions"]) == ("output/tiny/predict", False, 1, 256)
    sets = ["--set", "model.model_config.is_dynamic=True", "--set", "model.model_config.batch_size=3", "--set", "weights=int8"]
    said = planned(*sets)
    assert (said["dynamic"], said["rows"], said["weights"]) == (True, 3, "int8")
    flagged = planned(*sets, "--no-dynamic", "--batch-size", "2", "--seq-length", "64", "--weights", "auto", "--output", "x")
    assert (flagged["output"], flagged["dynamic"], flagged["rows"], flagged["positions"]) == ("x", False, 2, 64)
    assert flagged["weights"] == "float32"
    assert 0 < flagged["disk_per_rank"] < flagged["memory_per_rank"]
    assert said["disk_per_rank"] < flagged["disk_per_rank"]
    assert not (place / "x").exists()


def test_examples_name_real_flags():
    parser = build_parser(["export"])
    for line in EXAMPLES.splitlines():
        if line.strip().startswith("codellama export"):
            assert parser.parse_args(line.split()[1:]).command == "export"
