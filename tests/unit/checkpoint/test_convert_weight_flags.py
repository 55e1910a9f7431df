import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_codellama.cli.convert import byte_count
from mindformers_codellama.cli.convert_weight import convert_arguments
from mindformers_codellama.errors import ConfigError

ROOT = Path(__file__).parents[3]


def test_the_cards_flags_write_float16_under_the_source_directory():
    words = convert_arguments(["--torch_ckpt_dir", "hf", "--mindspore_ckpt_path", "x.ckpt"])
    assert words == ["convert", "hf", "hf/x.ckpt", "--to", "ms", "--dtype", "float16"]


def test_an_absolute_output_is_taken_as_it_is():
    assert convert_arguments(["--torch_ckpt_dir", "hf", "--mindspore_ckpt_path", "/out/x.ckpt"])[2] == "/out/x.ckpt"


def test_the_later_flags_keep_the_type_unless_told(tmp_path):
    words = convert_arguments(["--model", "llama", "--input_path", "hf", "--output_path", "x.ckpt"])
    assert words == ["convert", "hf", "x.ckpt", "--to", "ms", "--dtype", "keep"]
    words = convert_arguments(
        ["--model", "llama", "--input_path", "x.ckpt", "--output_path", "hf", "--reversed", "--dtype", "bf16", "--force"]
    )
    assert words == ["convert", "x.ckpt", "hf", "--to", "hf", "--dtype", "bf16", "--force"]


def test_any_file_of_a_hugging_face_directory_stands_for_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    words = convert_arguments(["--input_path", str(tmp_path / "pytorch_model-00001-of-00002.bin"), "--output_path", "x.ckpt"])
    assert words[1] == str(tmp_path)


def test_the_old_layout_upgrade_writes_beside_with_hf_in_its_name():
    words = convert_arguments(["--pre_ckpt_path", "a/old.ckpt", "--config_path", "params.json"])
    assert words == ["convert", "a/old.ckpt", "a/old_hf.ckpt", "--to", "ms", "--rotary-pairs", "params.json"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model", "glm2", "--input_path", "a", "--output_path", "b"], "only llama"),
        (["--input_path", "a"], "both needed"),
        (["--pre_ckpt_path", "a"], "both needed"),
    ],
)
def test_wrong_flags_end_with_argparses_message(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        convert_arguments(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_tool_is_thin_and_explains_itself():
    tool = ROOT / "tools" / "convert_weight.py"
    assert len(tool.read_text().splitlines()) < 30
    shown = subprocess.run([sys.executable, tool, "--help"], capture_output=True, text=True, check=True).stdout
    for flag in ("--torch_ckpt_dir", "--mindspore_ckpt_path", "--input_path", "--output_path", "--dtype", "--reversed", "--pre_ckpt_path"):
        assert flag in shown


@pytest.mark.parametrize(("text", "size"), [("5GB", 5_000_000_000), ("500mb", 500_000_000), ("12", 12), ("1.5K", 1500)])
def test_sizes(text, size):
    assert byte_count(text) == size


@pytest.mark.parametrize("text", ["", "big", "-5GB", "0"])
def test_sizes_that_are_none(text):
    with pytest.raises(ConfigError, match="write 5GB"):
        byte_count(text)
