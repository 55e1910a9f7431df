"""What can be exported is decided before anything is built, and sizes are those of the files."""

import dataclasses
import re
from pathlib import Path

import pytest

from mindformers_codellama.cli.export import check_format
from mindformers_codellama.config.check_weights import weights_findings
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import CheckpointError, ConfigError
from mindformers_codellama.export.request import ExportRequest, export_sizes, request_findings
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.mindir.key import read_key
from mindformers_codellama.mindir.manifest import KERNELS

CONFIG = ModelConfig(
    vocab_size=100, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=96, seq_length=64, max_position=64
)
ONE = Layout()
PROJECT = Path(__file__).resolve().parents[3]


def sizes(request, config=CONFIG):
    shapes = ModelLayout(config=config, layout=ONE, vocabulary_cut=False).shapes
    return export_sizes(config, shapes, request, 1)


def test_sizes_are_those_of_the_tensors():
    found = sizes(ExportRequest(folder=Path("x"), batch_size=3))
    matrices = 2 * 100 * 64 + 2 * (64 * 64 * 2 + 2 * 32 * 64 + 3 * 96 * 64)
    assert found.weights == 4 * (matrices + 5 * 64)
    assert found.cache == 2 * 2 * 3 * 2 * 64 * 16 * 4
    half = dataclasses.replace(CONFIG, compute_dtype="float16", param_init_dtype="float16")
    assert sizes(ExportRequest(folder=Path("x")), half).weights == 2 * matrices + 4 * 5 * 64, "norms stay float32"
    packed = sizes(ExportRequest(folder=Path("x"), form="int4")).held
    columns = {64: 64, 96: 128}
    own = [(100, 64)] + 2 * ([(64, 64), (32, 64), (32, 64), (64, 64)] + [(96, 64), (64, 96), (96, 64)])
    assert packed == 4 * (100 * 64 + 5 * 64) + sum(o * (columns[i] // 2 + columns[i] // 64 * 4) for o, i in own)
    assert sizes(ExportRequest(folder=Path("x"), blocks=9, block_size=8)).one_cache == 9 * 8 * 2 * 16 * 4
    plain, secret = (sizes(ExportRequest(folder=Path("x"), key_file=key)) for key in (None, Path("k")))
    assert secret.disk - plain.disk == plain.weights + 2 * plain.cache - plain.one_cache, "encrypted graphs have their own weights"


@pytest.mark.parametrize(
    ("options", "layout", "message"),
    [
        ({"batch_size": 0}, ONE, "--batch-size: got 0"),
        ({"single": True}, ONE, "--single: .* Fix: add --dynamic"),
        ({"target": "gpu"}, ONE, "--target: got 'gpu'. Fix: one of cpu, ascend"),
        ({}, Layout(data_parallel=2), "data_parallel: got 2"),
        ({"blocks": 4, "block_size": 16}, ONE, "--paged-blocks: got 4; one row of 64 positions takes 4 blocks"),
        ({"blocks": 40, "block_size": 7}, ONE, "--block-size: got 7, must divide the 64 positions"),
        ({"blocks": 40, "block_size": 16, "dynamic": True}, ONE, "no paged cache"),
        ({"form": "bfloat16"}, ONE, "got 'bfloat16', which is no form of exported weights"),
        ({"form": "int8"}, Layout(model_parallel=2), "got 'int8' on 2 ranks"),
        ({"operators": "kernel"}, ONE, "--operators: got 'kernel'. Fix: one of standard, codellama-cpu"),
        ({"operators": KERNELS, "target": "ascend"}, ONE, "for the target ascend: these operators are a library of CPU instructions"),
        ({"operators": KERNELS}, Layout(model_parallel=2), "on 2 ranks, but the kernels hold a whole model"),
        ({"operators": KERNELS, "dynamic": True}, ONE, "--dynamic: does not go with --operators codellama-cpu: these graphs have fixed"),
        ({"operators": KERNELS, "blocks": 9}, ONE, "--paged-blocks: does not go with --operators codellama-cpu"),
        ({"operators": KERNELS, "key_file": Path("k")}, ONE, "--key-file: does not go with --operators codellama-cpu"),
        ({"operators": KERNELS, "form": "int3"}, ONE, "weights: got 'int3'. Fix: write auto, or one of bfloat16, int8, int4"),
        ({"key_file": Path("k"), "target": "ascend"}, Layout(model_parallel=2), "got 'ascend': encrypted graphs of several ranks"),
    ],
)
def test_what_cannot_be_exported_is_refused(options, layout, message):
    request = ExportRequest(folder=Path("x"), **options)
    found = "\n".join(str(error) for error in request_findings(CONFIG, layout, request, sizes(request)))

    assert re.search(message, found), found


def test_what_is_right_is_not():
    for options in ({}, {"dynamic": True, "single": True}, {"blocks": 5, "block_size": 16}, {"form": "int4"}, {"key_file": Path("k")}):
        request = ExportRequest(folder=Path("x"), **options)
        assert list(request_findings(CONFIG, ONE, request, sizes(request))) == []


def test_an_encrypted_file_has_a_limit():
    request = ExportRequest(folder=Path("x"), key_file=Path("k"))
    large = dataclasses.replace(sizes(request), held=1 << 30)
    assert "one file of up to 1 GiB" in str(next(request_findings(CONFIG, ONE, request, large)))


@pytest.mark.parametrize("name", ["AIR", "om", "tflite", "wat"])
def test_other_formats_are_refused_with_the_reason(name):
    with pytest.raises(ConfigError, match=f"--format: got '{name}': .{{10,}}Fix: leave it out: MindIR is written; or write onnx"):
        check_format(name)


@pytest.mark.parametrize(
    ("content", "key"),
    [(b"k" * 16, b"k" * 16), (b"k" * 24, b"k" * 24), (b"00" * 16 + b"\n", bytes(16)), (b"aF" * 32, b"\xaf" * 32), (bytes(32), bytes(32))],
)
def test_a_key_is_bytes_or_digits(tmp_path, content, key):
    path = tmp_path / "key"
    path.write_bytes(content)
    assert read_key(path) == key


@pytest.mark.parametrize("content", [b"", b"short", b"00" * 15, b"k" * 33])
def test_a_file_without_a_key_is_refused(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"is no key: {len(content)} bytes.*openssl rand -hex 32"):
        read_key(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_key(tmp_path / "none")


def test_integers_are_exported_from_yaml_and_bfloat16_is_not():
    config = "configs/codellama/predict_codellama_tiny.yaml"
    wanted = ["run_mode=export", "load_checkpoint=x"]
    for form, device, problems in (("int8", "Ascend", 0), ("int4", "CPU", 0), ("bfloat16", "CPU", 1)):
        run = read_run(PROJECT / config, overrides=[*wanted, f"weights={form}", f"context.device_target={device}"])
        found = [str(error) for error in weights_findings(run)]
        assert len(found) == problems, found
    assert "run_mode export needs floating-point weights" in found[0]
