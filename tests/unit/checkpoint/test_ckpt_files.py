"""The .ckpt wire format by itself; `tests/journeys/test_convert_mindspore.py` holds it against MindSpore."""

import binascii

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.checkpoint import ckpt_format
from mindformers_codellama.checkpoint.ckpt_format import read_ckpt, write_ckpt
from mindformers_codellama.checkpoint.ckpt_scanner import scan_ckpt
from mindformers_codellama.errors import CheckpointError

MIXED = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.ones((5,), np.float16),
    "brain": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "scalar": np.array(2.5, np.float32),
    "ids": np.arange(4, dtype=np.int32),
    "flag": np.array([True, False, True]),
}


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes()


def test_tensors_of_every_type_come_back(tmp_path):
    record = write_ckpt(tmp_path / "x.ckpt", MIXED.items(), hashed=True)
    assert record.size == (tmp_path / "x.ckpt").stat().st_size
    assert len(record.sha256) == 64
    assert_same(read_ckpt(tmp_path / "x.ckpt"), MIXED)


def test_text_and_numbers_come_back(tmp_path):
    items = {"name": "Llama \u00e9\u4e2d", "step": 7, "rate": 0.5, "done": True}
    write_ckpt(tmp_path / "x.ckpt", items.items())
    found = read_ckpt(tmp_path / "x.ckpt")
    assert {name: value if isinstance(value, str) else value.item() for name, value in found.items()} == items
    assert (found["step"].dtype, found["rate"].dtype, found["done"].dtype) == (np.int64, np.float32, np.bool_)


def test_a_tensor_above_the_slice_size_is_several_values_of_one_tag(tmp_path, monkeypatch):
    monkeypatch.setattr(ckpt_format, "SLICE_BYTES", 64)
    values = np.arange(50, dtype=np.float32).reshape(10, 5)
    write_ckpt(tmp_path / "x.ckpt", [("w", values), ("v", values[:2])])
    assert len(scan_ckpt(tmp_path / "x.ckpt").tensors["w"].segments) == 4  # 200 bytes in slices of 64
    assert_same(read_ckpt(tmp_path / "x.ckpt"), {"w": values, "v": values[:2]})


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=4), slice_bytes=st.sampled_from([4, 64, 100]))
def test_any_sizes_survive_any_slicing(tmp_path_factory, sizes, slice_bytes):
    path = tmp_path_factory.mktemp("slices") / "x.ckpt"
    items = {f"w{i}": np.arange(size, dtype=np.float32) for i, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ckpt_format, "SLICE_BYTES", slice_bytes)
        write_ckpt(path, items.items(), crc=True)
    assert_same(read_ckpt(path), items)


def test_the_checksum_is_of_everything_before_it_and_is_compared(tmp_path):
    write_ckpt(tmp_path / "x.ckpt", MIXED.items(), crc=True)
    data = bytearray((tmp_path / "x.ckpt").read_bytes())
    assert data[-17:-10] == b"crc_num"
    assert int.from_bytes(data[-10:], "big") == binascii.crc32(data[:-17])
    scan_ckpt(tmp_path / "x.ckpt", check_crc=True)
    data[60] ^= 1
    (tmp_path / "x.ckpt").write_bytes(data)
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        scan_ckpt(tmp_path / "x.ckpt", check_crc=True)


@pytest.mark.parametrize("cut", [1, 7, 20, 60])
def test_a_file_cut_short_is_refused_with_the_last_whole_tensor(tmp_path, cut):
    write_ckpt(tmp_path / "x.ckpt", [("first", np.ones(9, np.float32)), ("second", np.ones(20, np.float32))])
    data = (tmp_path / "x.ckpt").read_bytes()
    (tmp_path / "x.ckpt").write_bytes(data[:-cut])
    with pytest.raises(CheckpointError, match="cut short after first"):
        read_ckpt(tmp_path / "x.ckpt")


def test_other_files_are_refused(tmp_path):
    foreign = "not a MindSpore .ckpt"
    for content, message in [(b"", "is empty"), (b"PK\x03\x04 not this", foreign), (bytes(range(1, 200)), foreign)]:
        (tmp_path / "x.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_ckpt(tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_ckpt(tmp_path / "none.ckpt")


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(min_size=1, max_size=80), at=st.integers(0, 200))
def test_damaged_bytes_give_a_checkpoint_error_and_nothing_else(tmp_path_factory, noise, at):
    path = tmp_path_factory.mktemp("noise") / "x.ckpt"
    write_ckpt(path, MIXED.items())
    data = bytearray(path.read_bytes())
    data[at : at + len(noise)] = noise
    path.write_bytes(data)
    try:
        read_ckpt(path)
    except CheckpointError:
        pass


def test_an_existing_file_stays_without_force(tmp_path):
    write_ckpt(tmp_path / "x.ckpt", [("w", np.zeros(2, np.float32))])
    before = (tmp_path / "x.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match=r"exists already\. Fix: .*--force"):
        write_ckpt(tmp_path / "x.ckpt", [("w", np.ones(2, np.float32))])
    assert (tmp_path / "x.ckpt").read_bytes() == before
    write_ckpt(tmp_path / "x.ckpt", [("w", np.ones(2, np.float32))], force=True)
    assert (tmp_path / "x.ckpt").read_bytes() != before


def test_a_failure_in_the_middle_leaves_the_old_file_and_no_other(tmp_path):
    write_ckpt(tmp_path / "x.ckpt", [("w", np.zeros(2, np.float32))])
    before = (tmp_path / "x.ckpt").read_bytes()

    def items():
        yield "a", np.ones(1000, np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ckpt(tmp_path / "x.ckpt", items(), force=True)
    assert (tmp_path / "x.ckpt").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.ckpt"]


def test_a_name_given_twice_and_a_type_nobody_stores_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="w was given twice"):
        write_ckpt(tmp_path / "x.ckpt", [("w", np.ones(1)), ("w", np.ones(1))])
    with pytest.raises(CheckpointError, match="complex64"):
        write_ckpt(tmp_path / "x.ckpt", [("w", np.ones(1, np.complex64))])
    assert not list(tmp_path.iterdir())


def test_views_that_are_not_contiguous_are_written_in_order(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_ckpt(tmp_path / "x.ckpt", [("t", values.T), ("s", values[:, ::2])])
    found = read_ckpt(tmp_path / "x.ckpt")
    np.testing.assert_array_equal(found["t"], values.T)
    np.testing.assert_array_equal(found["s"], values[:, ::2])
