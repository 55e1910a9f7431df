"""`codellama convert` and `tools/convert_weight.py` as a person runs them."""

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mindformers_codellama.checkpoint.hf_config import hf_config
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes, to_theirs
from mindformers_codellama.cli.main import main
from mindformers_codellama.config.model_config import ModelConfig

ROOT = Path(__file__).parents[2]
TOY = ModelConfig(
    vocab_size=48, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=40, seq_length=32, max_position=32
)


@pytest.fixture
def hf(tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()
    rng = np.random.default_rng(0)
    shapes = expected_shapes(Sizes.of(TOY))
    save_file(
        {to_theirs(name): rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(hf_config(TOY, "float32")))
    return folder


def test_the_report_for_people_and_for_programs(tmp_path, hf, capsys):
    assert main(["convert", str(hf), str(tmp_path / "x.ckpt"), "--dtype", "bf16"]) == 0
    assert "21 tensors" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "x.ckpt"), str(tmp_path / "back"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["source_format"], report["target_format"], report["dtypes"]) == ("ms-ckpt", "hf", ["bfloat16"])
    original, returned = open_checkpoint(hf), open_checkpoint(tmp_path / "back")
    for name in original.names():
        assert returned.read(name).tobytes() == original.read(name).astype(ml_dtypes.bfloat16).tobytes()


def test_errors_are_one_line_without_a_traceback(tmp_path, hf, capsys):
    assert main(["convert", str(tmp_path / "none"), str(tmp_path / "x.ckpt")]) == 3
    shown = capsys.readouterr().err
    assert shown.startswith("codellama: error: ")
    assert "does not exist" in shown
    assert "Traceback" not in shown


def test_a_yaml_or_a_name_gives_the_configuration(tmp_path, hf, capsys):
    main(["convert", str(hf), str(tmp_path / "x.ckpt")])
    (tmp_path / "x.ckpt.manifest.json").unlink()
    assert main(["convert", str(tmp_path / "x.ckpt"), str(tmp_path / "a"), "--to", "hf"]) == 3
    assert main(["convert", str(tmp_path / "x.ckpt"), str(tmp_path / "a"), "--to", "hf", "--config", "codellama_7b"]) == 3
    assert "checkpoint of another model size" in capsys.readouterr().err
    (tmp_path / "run.yaml").write_text(
        "model:\n  arch: {type: LlamaForCausalLM}\n  model_config:\n    type: LlamaConfig\n    vocab_size: 48\n    hidden_size: 32\n"
        "    num_layers: 2\n    num_heads: 4\n    n_kv_heads: 2\n    intermediate_size: 40\n    seq_length: 32\n    theta: 1.0e4\n"
    )
    assert main(["convert", str(tmp_path / "x.ckpt"), str(tmp_path / "a"), "--to", "hf", "--config", str(tmp_path / "run.yaml")]) == 0
    assert open_checkpoint(tmp_path / "a").config.num_kv_heads == 2


def test_the_tool_with_the_cards_flags_in_its_own_process(tmp_path, hf):
    command = [sys.executable, ROOT / "tools" / "convert_weight.py", "--torch_ckpt_dir", hf, "--mindspore_ckpt_path", "x.ckpt"]
    subprocess.run(command, check=True, capture_output=True)
    reader = open_checkpoint(hf / "x.ckpt")
    assert {reader.dtype(name) for name in reader.names()} == {"float16"}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 3
    assert "exists already" in again.stderr


def test_conversion_starts_neither_mindspore_nor_torch(tmp_path, hf):
    code = (
        "import sys; from mindformers_codellama.cli.main import main\n"
        f"failed = main(['convert', {str(hf)!r}, {str(tmp_path / 'x.ckpt')!r}])\n"
        "sys.exit(failed or bool({'mindspore', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.ckpt").exists()
