"""docs/quantization.md: its commands run on a tiny model, and its layouts are those of the code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindformers_codellama.checkpoint.convert import convert
from mindformers_codellama.checkpoint.packed_open import open_packed
from mindformers_codellama.cli.quantize import EXAMPLES
from mindformers_codellama.config.read import read_run
from mindformers_codellama.config.weight_forms import WEIGHT_FORMS
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.quantization import packing
from mindformers_codellama.quantization.formats import bits_per_weight
from mindformers_codellama.text.auto import shipped_tokenizer

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "quantization.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `tiny-model`, random weights of the tiny configuration, and the project's `configs`."""
    from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
    from mindformers_codellama.checkpoint.tensors import ComputedTensor
    from mindformers_codellama.kernels.choose import plain_operators

    folder = tmp_path_factory.mktemp("page")
    config = read_run(PROJECT / "configs/codellama/pretrain_codellama_tiny.yaml").model.config
    with plain_operators():
        network = LlamaNetwork(config)
        init_parameters(network, 0)
    items = {name: value.asnumpy() for name, value in network.parameters_and_names()}
    tensors = {name: ComputedTensor(value.shape, "float32", lambda value=value: value) for name, value in items.items()}
    write_ckpt(folder / "x.ckpt", tensors.items())
    convert(folder / "x.ckpt", folder / "tiny-model", to="hf", config=config)
    shutil.copy(shipped_tokenizer() / "tokenizer.model", folder / "tiny-model")
    (folder / "configs").symlink_to(PROJECT / "configs")
    return folder


@pytest.mark.slow
def test_the_commands_of_the_page_run(place):
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CODELLAMA_LOG_LEVEL": "WARNING"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"perplexity +[\d.]+, float32 [\d.]+", done.stdout)
    assert done.stdout.count("def add(a, b):") == 2
    assert re.search(r"PPL [\d.]+ over \d+ tokens in \d batches, weights int4", done.stdout)
    assert open_packed(place / "tiny-w4").manifest.group == 128
    shares = [line.split()[-1] for line in done.stdout.splitlines() if "same top token" in line]
    assert shares
    assert float(shares[0].rstrip("%")) > 90, "random weights of 8 bits give nearly the same likeliest tokens"


def test_forms_and_bits_of_the_page_are_those_of_the_code():
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| [^|]+\| ([\d.]*)", PAGE, re.MULTILINE))
    assert all(f"`{form}`" in PAGE for form in WEIGHT_FORMS)
    for form, group in (("float32", 0), ("bfloat16", 0), ("int8", 64), ("int4", 64)):
        assert float(rows[form]) == bits_per_weight(form, group)


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
def test_the_layout_the_page_describes_is_the_one_of_the_arrays(form):
    rows, columns = 20, 128
    layout = re.search(rf"^\| {form} \| `\[rows/16\]\[columns/(\d+)\]\[16 rows\]\[(\d+) (?:columns|bytes)\]`", PAGE, re.MULTILINE)
    per_run, last = int(layout[1]), int(layout[2])
    assert packing.packed_shape(rows, columns, form, 64 if form != "bfloat16" else 0) == (2, columns // per_run, 16, last)
    if form == "int4":
        values = np.arange(rows * columns).reshape(rows, columns) % 15 - 7
        packed = packing.pack_int4(values.astype(np.int8))
        row, column = 17, 8 * 3 + 2
        byte = packed[row // 16, column // 8, row % 16, 2]
        assert (byte & 15, byte >> 4) == (values[row, column] + 8, values[row, column + 4] + 8)


def test_every_quantize_command_shown_is_understood():
    import argparse
    import shlex

    from mindformers_codellama.cli.quantize import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    commands = re.findall(r"^ *codellama quantize (.+)$", PAGE + EXAMPLES, re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        parser.parse_args(shlex.split(command.rstrip("\\"), comments=True))
