"""Packed directories: written by streaming, mapped when opened, refused when they are not what they say."""

from __future__ import annotations

import json
import mmap
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from kernels_case import needs_kernels
from safetensors.numpy import load_file

from mindformers_codellama.checkpoint import packed_write
from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.convert import cast_weights, convert, model_weights
from mindformers_codellama.checkpoint.hf_config import read_hf_config
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.packed_file import ALIGNMENT, FILLER, Slot, map_file, write_mappable
from mindformers_codellama.checkpoint.packed_floats import packed_reader, rounded_reader
from mindformers_codellama.checkpoint.packed_layout import slots
from mindformers_codellama.checkpoint.packed_manifest import PACKED_FILE, read_packed_manifest
from mindformers_codellama.checkpoint.packed_model import ROLES, part_names
from mindformers_codellama.checkpoint.packed_open import checkpoint_config, open_packed
from mindformers_codellama.checkpoint.packed_write import InMemory, pack_weights
from mindformers_codellama.checkpoint.quantize import quantize_checkpoint
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.quantization import quantize as by_numpy

FORMS = {"bf16": ("bfloat16", 0), "w8": ("int8", 64), "w4": ("int4", 64)}


def restored(matrix, form, group):
    """What packed weights stand for, by the formulas alone (docs/quantization.md), in float64."""
    if form == "bfloat16":
        return matrix.astype(ml_dtypes.bfloat16).astype(np.float64)
    limit = {"int8": 127, "int4": 7}[form]
    out = np.zeros_like(matrix, np.float64)
    for start in range(0, matrix.shape[1], group):
        part = matrix[:, start : start + group].astype(np.float64)
        exact = (np.abs(part).max(1, keepdims=True).astype(np.float32) / np.float32(limit)).astype(np.float32)
        scale = exact.astype(ml_dtypes.bfloat16)
        up = (scale.view(np.uint16) + 1).astype(np.uint16).view(ml_dtypes.bfloat16)
        scale = np.where(scale.astype(np.float32) < exact, up, scale).astype(np.float64)
        out[:, start : start + group] = np.clip(np.rint((part / scale).astype(np.float32)), -limit, limit) * scale
    return out


@pytest.mark.parametrize("scheme", FORMS)
def test_every_tensor_comes_back_as_the_formulas_say(packed, toy_weights, scheme):
    form, group = FORMS[scheme]
    opened = open_packed(packed(scheme), verify=True)
    reader = packed_reader(opened)
    matrices = {name for layer in range(2) for role in ROLES for name in part_names(layer, role)}
    for name, value in toy_weights().items():
        expected = value
        if name in matrices:
            expected = restored(value, form, group)
        elif "embedding" in name:
            expected = value.astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(reader.read(name), np.asarray(expected, np.float32), err_msg=name)
    assert set(reader.names()) == set(toy_weights())


@pytest.mark.parametrize("scheme", FORMS)
@pytest.mark.parametrize("block", [1, 1 << 30])
def test_made_at_load_and_ahead_gives_the_same_bytes_in_any_block_size_with_and_without_kernels(hf, tmp_path, monkeypatch, scheme, block):
    form, group = FORMS[scheme]
    source = hf()
    quantize_checkpoint(source, tmp_path / "ahead", scheme=scheme)
    monkeypatch.setattr(packed_write, "BLOCK_BYTES", block)
    monkeypatch.setenv("CODELLAMA_KERNELS", "off")
    assert packed_write.fastest_packer() is by_numpy.pack_weights
    reader = open_checkpoint(source)
    config = reader.config
    made = InMemory(slots(config, form, group))
    found = pack_weights(cast_weights(reader.path, model_weights(reader, config)[0], "float32"), config, form, group, made, measure=False)
    assert found == {}
    ahead = open_packed(tmp_path / "ahead").arrays
    assert made.arrays.keys() == ahead.keys()
    for name, array in ahead.items():
        assert array.tobytes() == made.arrays[name].tobytes(), name
        assert made.arrays[name].ctypes.data % ALIGNMENT == 0


@needs_kernels
def test_the_kernels_pack_when_their_library_is_there(monkeypatch):
    monkeypatch.delenv("CODELLAMA_KERNELS", raising=False)
    assert packed_write.fastest_packer() is packed_write.pack_by_kernels


def test_a_source_of_any_form_gives_the_same_file(hf, tmp_path, toy_weights):
    source = hf(dtype="bfloat16")
    write_ckpt(tmp_path / "a.ckpt", toy_weights("bfloat16").items())
    convert(source, tmp_path / "ours")
    quantize_checkpoint(source, tmp_path / "one", scheme="w4")
    config = open_checkpoint(source).config
    for number, other in enumerate((tmp_path / "a.ckpt", tmp_path / "ours")):
        target = tmp_path / f"other{number}"
        quantize_checkpoint(other, target, scheme="w4", config=config)
        first, second = (open_packed(folder).arrays for folder in (tmp_path / "one", target))
        assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_rounding_at_load_without_kernels_gives_the_values_of_the_file(hf, packed):
    target = packed("w4")
    reader = open_checkpoint(target.parent / "hf")
    rounded = rounded_reader(reader, reader.config, "int4", 64)
    from_file = packed_reader(open_packed(target))
    for name in reader.names():
        np.testing.assert_array_equal(rounded.read(name), from_file.read(name))


def test_biases_of_q_k_and_v_are_kept(tmp_path, toy, toy_weights):
    config = replace(toy, qkv_has_bias=True)
    weights = toy_weights(config=config)
    write_ckpt(tmp_path / "b.ckpt", weights.items())
    quantize_checkpoint(tmp_path / "b.ckpt", tmp_path / "out", scheme="w8", config=config)
    reader = packed_reader(open_packed(tmp_path / "out"))
    for name in ("model.layers.1.attention.wk.bias", "model.layers.0.attention.wq.bias", "model.norm_out.weight"):
        np.testing.assert_array_equal(reader.read(name), weights[name])
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_file_is_a_safetensors_file_whose_tensors_are_aligned_and_mapped(packed):
    file = packed("w4") / PACKED_FILE
    theirs = load_file(file)
    views, metadata = map_file(file)
    assert {name for name in theirs if not name.startswith(FILLER)} == set(views)
    for name, view in views.items():
        assert view.tobytes() == theirs[name].tobytes()
        assert view.ctypes.data % ALIGNMENT == 0
        base = view
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap) or isinstance(base.obj, mmap.mmap), "a view of the mapping, not a copy"
    assert metadata["form"] == "int4"
    before = file.read_bytes()
    views["norms"][0] = 7
    assert file.read_bytes() == before, "writing to a view must not reach the file"


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without large pages")
def test_the_mapping_asks_for_large_pages(packed):
    file = packed("w8") / PACKED_FILE
    views, _ = map_file(file)
    parts = Path("/proc/self/smaps").read_text().split("VmFlags:")
    flags = next(after.split("\n")[0].split() for before, after in zip(parts, parts[1:], strict=False) if str(file) in before)
    assert "hg" in flags  # proc(5): MADV_HUGEPAGE
    assert views


def test_odd_sizes_are_filled_up_and_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    wanted = {"a": Slot("uint8", (3,)), "b": Slot("bfloat16", (5, 1)), "empty": Slot("float32", (0,)), "c": Slot("float32", (16,))}
    with write_mappable(path, wanted, metadata={}) as file:
        file.put("c", 32, np.arange(8, dtype=np.float32))
        file.put("a", 1, np.array([1, 2], np.uint8))
        file.put("c", 0, np.arange(8, 16, dtype=np.float32))
    views, _ = map_file(path)
    assert views["a"].tolist() == [0, 1, 2]
    assert views["c"].tolist() == [*range(8, 16), *range(8)]
    assert load_file(path)["c"].tolist() == views["c"].tolist()
    whole = path.read_bytes()
    for size in (0, 7, 8, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            map_file(path)


def test_manifest_and_companions(packed, toy):
    target = packed("w4", group=128)
    manifest = read_packed_manifest(target)
    assert (manifest.form, manifest.group, manifest.scheme, manifest.model) == ("int4", 128, "w4", toy)
    assert [file.name for file in manifest.files] == [PACKED_FILE]
    assert manifest.source["name"] == "hf"
    assert len(manifest.source["sha256"]) == len(manifest.source["files"][0]["sha256"]) == 64
    assert len(manifest.errors) == 2 * 7 + 2
    assert all(0 < error["mean"] < error["worst"] for error in manifest.errors.values())
    values = json.loads((target / "config.json").read_text())
    assert values["quantization_config"]["weights"] == "int4"
    assert values["quantization_config"]["group_size"] == 128
    assert read_hf_config(target / "config.json")[0] == toy
    assert (target / "tokenizer.model").read_bytes() == b"pieces"
    assert checkpoint_config(target) == toy


def test_errors_told_are_those_of_the_tensors(packed, toy_weights):
    target = packed("w4")
    name = "model.layers.1.feed_forward.w2.weight"
    difference = packed_reader(open_packed(target)).read(name).astype(np.float64) - toy_weights()[name]
    told = read_packed_manifest(target).errors[name]
    assert told["worst"] == pytest.approx(np.abs(difference).max(), rel=1e-6)
    assert told["mean"] == pytest.approx(np.abs(difference).mean(), rel=1e-6)
    wanted = np.sqrt(np.square(difference).sum() / np.square(toy_weights()[name].astype(np.float64)).sum())
    assert told["relative"] == pytest.approx(wanted, rel=1e-6)
