"""Packed weights that are damaged, foreign, unfinished or not what is needed are refused with the reason; what is there stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.convert import convert
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.packed_file import Slot, map_file, write_mappable
from mindformers_codellama.checkpoint.packed_manifest import PACKED_FILE
from mindformers_codellama.checkpoint.packed_open import open_packed
from mindformers_codellama.checkpoint.quantize import quantize_checkpoint
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, ConfigError


@pytest.mark.parametrize("action", ["open", "convert", "quantize"])
def test_packed_weights_are_refused_where_floats_are_needed(packed, tmp_path, action):
    target = packed("w4")
    for path in (target, target / PACKED_FILE):
        with pytest.raises(CheckpointError, match=r"holds int4 weights.* Fix: give the checkpoint it was made from \(hf\)"):
            {
                "open": lambda path=path: open_checkpoint(path),
                "convert": lambda path=path: convert(path, tmp_path / "x.ckpt"),
                "quantize": lambda path=path: quantize_checkpoint(path, tmp_path / "again", scheme="w8"),
            }[action]()
    assert not (tmp_path / "x.ckpt").exists()


def edit(target, **changes):
    path = target / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: (t / "manifest.json").unlink(), "manifest.json: is missing"),
        (lambda t: (t / "manifest.json").write_text("{"), "is not JSON"),
        (lambda t: (t / "manifest.json").write_text("[]"), "does not describe packed weights"),
        (lambda t: edit(t, kind="other"), "does not describe packed weights"),
        (lambda t: edit(t, layout_version=2), r"layout version 2; this package reads 1.*mindformers_codellama"),
        (lambda t: edit(t, group_size=32), r"32 columns share a scale; the kernels of int8 know 64 and 128.*--group-size 64"),
        (lambda t: edit(t, group_size=128), "does not belong to the manifest"),
        (lambda t: edit(t, form="int3"), "int3"),
        (lambda t: edit(t, model={"vocab_size": -1}), "vocab_size|damaged"),
        (lambda t: edit(t, files=[]), "does not name"),
        (lambda t: edit(t, errors=3), "is damaged"),
        (lambda t: (t / PACKED_FILE).unlink(), f"{PACKED_FILE}: is missing"),
        (lambda t: os.truncate(t / PACKED_FILE, 1000), "has 1000 bytes, its manifest says"),
    ],
)  # fmt: skip
def test_a_damaged_directory_is_refused_with_the_reason(packed, damage, message):
    target = packed("w8")
    damage(target)
    with pytest.raises(CodeLlamaError, match=message):
        open_packed(target)


def test_a_weight_file_of_another_model_or_packing_is_refused(packed, hf, tmp_path, toy):
    target = packed("w8")
    other = hf(config=replace(toy, rope_theta=1e4), name="other")
    convert(other, tmp_path / "changed", to="safetensors", dtype="bfloat16")
    quantize_checkpoint(tmp_path / "changed", tmp_path / "foreign", scheme="w8")
    (target / PACKED_FILE).write_bytes((tmp_path / "foreign" / PACKED_FILE).read_bytes())
    with pytest.raises(CheckpointError, match="does not belong to the manifest beside it: source"):
        open_packed(target)


def test_missing_unknown_and_misshaped_tensors_are_named(packed):
    target = packed("w8")
    file = target / PACKED_FILE
    views, metadata = map_file(file)
    changed = {name: Slot({"bfloat16": "bfloat16"}.get(view.dtype.name, view.dtype.name), view.shape) for name, view in views.items()}
    del changed["qkv"]
    changed["head"] = Slot("uint8", (1, *changed["head"].shape))
    changed["more"] = Slot("uint8", (64,))
    with write_mappable(file, changed, metadata=metadata, force=True):
        pass
    edit(target, files=[{"name": PACKED_FILE, "size": file.stat().st_size, "sha256": ""}])
    with pytest.raises(CodeLlamaError) as caught:
        open_packed(target)
    for word in ("qkv is missing", "more is not known", "head is uint8 [1,"):
        assert word in str(caught.value)


def test_every_region_of_the_file_is_covered_by_the_checksum_or_the_header_check(packed):
    target = packed("w4")
    file = target / PACKED_FILE
    whole = bytearray(file.read_bytes())
    for place in [0, 3, 9, 60, *range(100, len(whole), len(whole) // 40), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 0x41
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            open_packed(target, verify=True)
    file.write_bytes(whole)
    open_packed(target, verify=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["model.layers.1.attention.wk.weight", "model.tok_embeddings.embedding_weight", "model.norm_out.weight"])
def test_values_that_are_not_finite_are_refused_by_name_and_nothing_is_left(tmp_path, toy, toy_weights, name, value):
    weights = toy_weights()
    weights[name].reshape(-1)[-5] = value
    write_ckpt(tmp_path / "n.ckpt", weights.items())
    with pytest.raises(CheckpointError, match=name):
        quantize_checkpoint(tmp_path / "n.ckpt", tmp_path / "out", scheme="w8", config=toy)
    assert [path.name for path in tmp_path.iterdir()] == ["n.ckpt"]


def test_what_is_there_is_kept(packed, hf, tmp_path):
    target = packed("w8")
    source = tmp_path / "hf"
    with pytest.raises(CheckpointError, match="exists already"):
        quantize_checkpoint(source, target, scheme="w4")
    quantize_checkpoint(source, target, scheme="w4", force=True)
    assert open_packed(target, verify=True).manifest.form == "int4"
    with pytest.raises(CheckpointError, match="is the source"):
        quantize_checkpoint(source, source, scheme="w4", force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds no packed weights; --force replaces packed weights alone"):
        quantize_checkpoint(source, tmp_path / "mine", scheme="w4", force=True)
    with pytest.raises(ConfigError, match="32 columns, int4 knows 64 and 128"):
        quantize_checkpoint(source, tmp_path / "new", scheme="w4", group=32)
    report = quantize_checkpoint(source, tmp_path / "new", scheme="w4", dry_run=True)
    assert report.bytes_written == (target / PACKED_FILE).stat().st_size
    assert not (tmp_path / "new").exists()


KILLED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
from mindformers_codellama.checkpoint import packed_write, quantize
def slow(count):
    print("working", flush=True)
    time.sleep(30)
plain = quantize.pack_weights
quantize.pack_weights = lambda *a, **k: plain(*a, **{**k, "on_bytes": slow})
quantize.quantize_checkpoint(sys.argv[1], sys.argv[2], scheme="w8")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_no_directory_and_the_next_one_cleans_up(hf, tmp_path, how):
    source, target = hf(), tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(source), str(target)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == b"working\n"
    process.send_signal(how)
    process.wait(20)
    assert not target.exists()
    left = [path.name for path in tmp_path.iterdir() if path.name != "hf"]
    assert all(name.startswith(".out.") and name.endswith(".tmp") for name in left)
    assert how == signal.SIGKILL or not left, "an interrupt cleans up itself"
    time.sleep(0.05)
    quantize_checkpoint(source, target, scheme="w8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "out"]
