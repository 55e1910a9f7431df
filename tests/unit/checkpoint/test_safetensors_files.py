"""Oracle: the safetensors package reads what we write, and we read what it writes."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mindformers_codellama.checkpoint.safetensors_format import read_safetensors, read_sharded, write_safetensors
from mindformers_codellama.checkpoint.tensors import CHUNK_BYTES, ComputedTensor
from mindformers_codellama.errors import CheckpointError, Findings


def as_lazy(values):
    return ComputedTensor(values.shape, values.dtype.name, lambda: values)


def test_what_the_safetensors_package_wrote_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    wanted = {
        "a": rng.standard_normal((3, 4)).astype(np.float32),
        "b": rng.standard_normal((5,)).astype(np.float16),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "flags": np.array([True, False]),
    }
    save_file(wanted, tmp_path / "x.safetensors", metadata={"format": "pt"})
    tensors, metadata = read_safetensors(tmp_path / "x.safetensors")
    assert metadata == {"format": "pt"}
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {name: value.dtype.name for name, value in wanted.items()}
    for name, value in wanted.items():
        assert tensors[name].shape == value.shape
        np.testing.assert_array_equal(tensors[name].read(), value)


def test_what_we_write_the_safetensors_package_reads(tmp_path):
    values = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "h": np.ones((2,), np.float16)}
    record = write_safetensors(tmp_path / "x.safetensors", {k: as_lazy(v) for k, v in values.items()}, metadata={"format": "pt"})
    assert record.size == (tmp_path / "x.safetensors").stat().st_size
    found = load_file(tmp_path / "x.safetensors")
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value)
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_bfloat16_bytes_survive(tmp_path):
    values = np.arange(100).astype(ml_dtypes.bfloat16)
    write_safetensors(tmp_path / "x.safetensors", {"w": as_lazy(values)}, metadata={})
    found = read_safetensors(tmp_path / "x.safetensors")[0]["w"]
    assert found.dtype == "bfloat16"
    assert found.read().tobytes() == values.tobytes()


def test_a_tensor_larger_than_a_chunk_comes_in_pieces_that_join_to_it(tmp_path):
    values = np.arange(CHUNK_BYTES // 4 * 2 + 5, dtype=np.float32)
    save_file({"w": values}, tmp_path / "x.safetensors")
    tensor = read_safetensors(tmp_path / "x.safetensors")[0]["w"]
    pieces = [piece.copy() for piece in tensor.chunks()]
    assert [piece.nbytes for piece in pieces] == [CHUNK_BYTES, CHUNK_BYTES, 20]
    np.testing.assert_array_equal(np.concatenate(pieces), values)


def test_rows_of_a_tensor_are_found_without_reading_it(tmp_path):
    values = np.arange(24, dtype=np.int32).reshape(6, 4)
    save_file({"w": values}, tmp_path / "x.safetensors")
    tensor = read_safetensors(tmp_path / "x.safetensors")[0]["w"]
    np.testing.assert_array_equal(tensor.rows(2, 5).read(), values[2:5])
    assert tensor.rows(2, 5).segments[0].nbytes == 3 * 4 * 4


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_file_cut_anywhere_is_refused(tmp_path, keep):
    save_file({"w": np.ones((64, 64), np.float32)}, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=r"cut short|not a safetensors file") as caught:
        read_safetensors(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}, r"w: shape \[4\] of float32 takes 16 bytes, the header gives 12"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}, "cut short: it has .* 1 of 1 are not whole"),
        ({"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}, "damaged header entry"),
        ({"dtype": "F32", "shape": [4]}, "damaged header entry"),
        ({"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}, "type F8_E4M3, which is not supported"),
        ([], "damaged header entry"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, entry, message):
    header = json.dumps({"w": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(tmp_path / "x.safetensors")


def test_every_missing_shard_is_named_at_once(tmp_path):
    index = {"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Findings, match=r"(?s)2 problems.*m-1\.safetensors.*m-2\.safetensors"):
        read_sharded(tmp_path / "model.safetensors.index.json")


def test_a_cut_file_is_told_once_and_every_damaged_shard_is_named(tmp_path):
    weights = {name: np.ones(8, np.float32) for name in "abcd"}
    weight_map = {}
    for number in (1, 2, 3):
        name = f"m-{number}.safetensors"
        save_file({f"{key}{number}": value for key, value in weights.items()}, tmp_path / name)
        weight_map |= {f"{key}{number}": name for key in weights}
        if number != 2:
            data = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(data[:-40])
    (tmp_path / "i.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(Findings) as caught:
        read_sharded(tmp_path / "i.json")
    assert [error.where.name if hasattr(error.where, "name") else error.where.rpartition("/")[2] for error in caught.value] == [
        "m-1.safetensors",
        "m-3.safetensors",
    ]
    assert all("cut short" in error.problem and "2 of 4 are not whole" in error.problem for error in caught.value)


def test_an_index_that_promises_a_tensor_in_vain_is_refused(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "m.safetensors")
    (tmp_path / "i.json").write_text(json.dumps({"weight_map": {"a": "m.safetensors", "b": "m.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"says m\.safetensors holds b, but it does not"):
        read_sharded(tmp_path / "i.json")


def test_an_index_cannot_name_files_elsewhere(tmp_path):
    (tmp_path / "i.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its own directory"):
        read_sharded(tmp_path / "i.json")
