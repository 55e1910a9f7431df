"""Our .ckpt against MindSpore's own `save_checkpoint` and `load_checkpoint`, and loading into the network."""

import mindspore as ms
import ml_dtypes
import numpy as np
import pytest
from mindspore.train import serialization

from mindformers_codellama.checkpoint import ckpt_format
from mindformers_codellama.checkpoint.ckpt_format import read_ckpt, write_ckpt
from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.checkpoint.hf_config import hf_config
from mindformers_codellama.checkpoint.load import load_into
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes, to_theirs
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError, Findings
from mindformers_codellama.model.llama import LlamaNetwork

TOY = ModelConfig(
    vocab_size=48, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=40, seq_length=32, max_position=32
)


def arrays():
    rng = np.random.default_rng(0)
    return {
        "f32": rng.standard_normal((7, 5)).astype(np.float32),
        "f16": rng.standard_normal((9,)).astype(np.float16),
        "bf16": rng.standard_normal((4, 3)).astype(ml_dtypes.bfloat16),
        "f64": rng.standard_normal((2, 2)),
        "i32": np.arange(6, dtype=np.int32).reshape(2, 3),
        "i64": np.array([2**40], np.int64),
        "u8": np.arange(5, dtype=np.uint8),
        "i8": np.arange(-2, 3).astype(np.int8),
        "flag": np.array([True, False]),
        "scalar": np.array(2.5, np.float32),
    }


def same(found, wanted):
    found = np.asarray(found)
    return found.dtype.name == wanted.dtype.name and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("crc", [False, True])
def test_mindspore_loads_what_we_write(tmp_path, crc):
    write_ckpt(tmp_path / "x.ckpt", [*arrays().items(), ("step", 7), ("rate", 0.5), ("done", True), ("name", "Ll\u00e4ma")], crc=crc)
    found = ms.load_checkpoint(str(tmp_path / "x.ckpt"), crc_check=crc)
    for name, value in arrays().items():
        assert same(found[name].asnumpy(), value), name
    assert (found["step"].asnumpy(), found["rate"].asnumpy(), found["done"].asnumpy()) == (7, 0.5, True)
    assert found["name"] == "Ll\u00e4ma"


@pytest.mark.parametrize("crc", [False, True])
def test_we_read_what_mindspore_saves(tmp_path, crc):
    items = [{"name": name, "data": ms.Tensor(value)} for name, value in arrays().items()]
    extra = {"step": 7, "rate": 0.5, "done": True, "name": "Ll\u00e4ma", "shape0": ms.Tensor(np.zeros((3, 0), np.float32).sum())}
    ms.save_checkpoint(items, str(tmp_path / "x.ckpt"), append_dict=extra, crc_check=crc)
    scan_ckpt(tmp_path / "x.ckpt", check_crc=True)
    found = read_ckpt(tmp_path / "x.ckpt")
    for name, value in arrays().items():
        assert same(found[name], value), name
    assert (found["step"], found["rate"], found["done"], found["name"]) == (7, 0.5, True, "Ll\u00e4ma")
    assert found["step"].shape == found["shape0"].shape == ()


def test_the_bytes_of_a_file_without_numbers_equal_mindspores(tmp_path):
    """Not only readable: the same encoding, so any other reader of .ckpt takes it too."""
    ms.save_checkpoint([{"name": n, "data": ms.Tensor(v)} for n, v in arrays().items()], str(tmp_path / "theirs.ckpt"), crc_check=True)
    write_ckpt(tmp_path / "ours.ckpt", arrays().items(), crc=True)
    assert (tmp_path / "ours.ckpt").read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()


@pytest.mark.parametrize("slice_kib", [1, 3])
def test_large_tensors_cut_in_slices_go_both_ways(tmp_path, monkeypatch, slice_kib):
    """MindSpore cuts at 512 MB; the limit is lowered on both sides (its SLICE_SIZE is in KB)."""
    monkeypatch.setattr(serialization, "SLICE_SIZE", slice_kib)
    monkeypatch.setattr(ckpt_format, "SLICE_BYTES", slice_kib * 1024)
    values = {"big": np.random.default_rng(1).standard_normal((70, 37)).astype(np.float32), "small": np.ones(3, np.float32)}
    ms.save_checkpoint([{"name": n, "data": ms.Tensor(v)} for n, v in values.items()], str(tmp_path / "theirs.ckpt"))
    assert len(scan_ckpt(tmp_path / "theirs.ckpt").tensors["big"].segments) > 3
    assert same(read_ckpt(tmp_path / "theirs.ckpt")["big"], values["big"])
    write_ckpt(tmp_path / "ours.ckpt", values.items())
    assert (tmp_path / "ours.ckpt").read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()
    assert same(ms.load_checkpoint(str(tmp_path / "ours.ckpt"))["big"].asnumpy(), values["big"])


def test_slices_by_rows_as_mindspore_cuts_numpy_arrays_are_joined(tmp_path, monkeypatch):
    """`save_checkpoint(async_save=True)` hands numpy arrays over, which are cut by rows, unevenly."""
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)
    values = np.random.default_rng(1).standard_normal((70, 37)).astype(np.float32)
    ms.save_checkpoint([{"name": "big", "data": ms.Tensor(values)}], str(tmp_path / "x.ckpt"), async_save="thread")
    serialization._wait_async_thread_save_ckpt()
    assert len({segment.nbytes for segment in scan_ckpt(tmp_path / "x.ckpt").tensors["big"].segments}) > 1
    assert same(read_ckpt(tmp_path / "x.ckpt")["big"], values)


def test_mindspores_own_bfloat16_arrays_are_written(tmp_path):
    """`Parameter.asnumpy` gives MindSpore's bfloat16 type, which is not the one of ml_dtypes; the trainer saves those."""
    parameter = ms.Parameter(ms.Tensor(arrays()["bf16"]), name="w")
    write_ckpt(tmp_path / "x.ckpt", [("w", parameter.asnumpy())])
    assert same(read_ckpt(tmp_path / "x.ckpt")["w"], arrays()["bf16"])


def weights(config=TOY, dtype=np.float32):
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in expected_shapes(Sizes.of(config)).items()}


def test_a_network_takes_every_weight_and_leaves_training_state(tmp_path):
    state = {"adam_m.model.norm_out.weight": np.ones(32, np.float32), "global_step": np.array(3, np.int32)}
    write_ckpt(tmp_path / "x.ckpt", (weights() | state).items())
    network = LlamaNetwork(TOY)
    report = load_into(network, tmp_path / "x.ckpt")
    assert report.loaded == len(weights())
    assert report.ignored == tuple(state)
    assert not report.difference
    for name, parameter in network.parameters_and_names():
        np.testing.assert_array_equal(parameter.asnumpy(), weights()[name])


def test_a_hugging_face_directory_is_loaded_without_conversion_and_cast(tmp_path):
    from json import dumps

    from safetensors.numpy import save_file

    save_file({to_theirs(name): value for name, value in weights(dtype=np.float16).items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(dumps(hf_config(TOY, "float16")))
    network = LlamaNetwork(TOY)
    report = load_into(network, tmp_path)
    assert report.cast_from == ("float16",)
    for name, parameter in network.parameters_and_names():
        assert parameter.dtype == ms.float32
        np.testing.assert_array_equal(parameter.asnumpy(), weights(dtype=np.float16)[name].astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_network_in_half_precision_gets_rounded_weights(tmp_path, dtype):
    write_ckpt(tmp_path / "x.ckpt", weights().items())
    network = LlamaNetwork(ModelConfig(**{**vars(TOY), "param_init_dtype": dtype}))
    assert load_into(network, tmp_path / "x.ckpt").cast_from == ("float32",)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    for name, parameter in network.parameters_and_names():
        stored = kind if parameter.dtype != ms.float32 else np.float32  # norm weights stay float32
        assert parameter.asnumpy().tobytes() == weights()[name].astype(stored).tobytes()


def test_a_checkpoint_of_another_size_is_refused_before_anything_changes(tmp_path):
    other = ModelConfig(**{**vars(TOY), "num_layers": 3, "intermediate_size": 48})
    write_ckpt(tmp_path / "x.ckpt", weights(other).items())
    network = LlamaNetwork(TOY)
    before = {name: parameter.asnumpy().copy() for name, parameter in network.parameters_and_names()}
    with pytest.raises(
        Findings, match="checkpoint of another model size: num_layers 3 there, 2 in the model; intermediate_size 48 there, 40"
    ):
        load_into(network, tmp_path / "x.ckpt")
    for name, parameter in network.parameters_and_names():
        np.testing.assert_array_equal(parameter.asnumpy(), before[name])


def test_missing_weights_are_refused_unless_strict_is_off(tmp_path):
    some = weights()
    del some["lm_head.weight"]
    write_ckpt(tmp_path / "x.ckpt", some.items())
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: is missing"):
        load_into(LlamaNetwork(TOY), tmp_path / "x.ckpt")
    report = load_into(LlamaNetwork(TOY), tmp_path / "x.ckpt", strict=False)
    assert report.difference.missing == ("lm_head.weight",)
    assert report.loaded == len(some)
