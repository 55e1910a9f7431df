"""`convert` between our formats and Hugging Face's, and every refusal; no torch."""

import errno
import json
import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from mindformers_codellama.checkpoint import files
from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.convert import Options, convert
from mindformers_codellama.checkpoint.meta_format import pairs_to_halves
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.errors import CheckpointError, Findings


def assert_same_bytes(path, weights):
    reader = open_checkpoint(path)
    assert sorted(reader.names()) == sorted(weights)
    for name, value in weights.items():
        assert reader.dtype(name) == value.dtype.name
        assert reader.read(name).tobytes() == value.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_there_and_back_through_every_form_gives_the_same_bytes(tmp_path, hf, toy, toy_weights, dtype):
    weights = toy_weights(dtype)
    steps = [hf(dtype), tmp_path / "a.ckpt", tmp_path / "dir", tmp_path / "b.ckpt", tmp_path / "c.safetensors", tmp_path / "back"]
    for number, (source, target) in enumerate(zip(steps[:-1], steps[1:], strict=True)):
        convert(source, target, to="hf" if number == 4 else None)
        assert_same_bytes(target, weights)
        assert open_checkpoint(target).config == toy


def test_shards_are_cut_at_the_size_asked_for_and_the_index_is_complete(tmp_path, hf, toy_weights):
    report = convert(hf(), tmp_path / "out", to="hf", options=Options(max_shard_bytes=10_000))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(report.files) > 3
    found = {}
    for file in sorted((tmp_path / "out").glob("model-*.safetensors")):
        part = load_file(file)
        assert sum(value.nbytes for value in part.values()) <= 10_000 or len(part) == 1
        assert all(index["weight_map"][name] == file.name for name in part)
        found |= part
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in toy_weights().values())
    assert_same_bytes(tmp_path / "out", toy_weights())


def test_casting_rounds_as_numpy_does(tmp_path, hf, toy_weights):
    convert(hf("float32"), tmp_path / "x.ckpt", dtype="float16")
    assert_same_bytes(tmp_path / "x.ckpt", {name: value.astype(np.float16) for name, value in toy_weights().items()})


def test_a_value_beyond_float16_is_refused_by_name_instead_of_becoming_infinity(tmp_path, toy_weights):
    weights = toy_weights()
    weights["model.norm_out.weight"][3] = 1e6
    write_ckpt(tmp_path / "x.ckpt", weights.items())
    with pytest.raises(CheckpointError, match=r"model\.norm_out\.weight: holds values up to 1e\+06.*bfloat16"):
        convert(tmp_path / "x.ckpt", tmp_path / "y.ckpt", dtype="float16")
    assert sorted(os.listdir(tmp_path)) == ["x.ckpt"]
    convert(tmp_path / "x.ckpt", tmp_path / "y.ckpt", dtype="bfloat16")


def test_training_state_is_left_out_and_said(tmp_path, toy_weights):
    state = {"adam_m.model.norm_out.weight": np.ones(32, np.float32), "global_step": np.array(5, np.int32)}
    write_ckpt(tmp_path / "x.ckpt", (toy_weights() | state).items())
    report = convert(tmp_path / "x.ckpt", tmp_path / "y.ckpt")
    assert report.left_out == tuple(state)
    assert_same_bytes(tmp_path / "y.ckpt", toy_weights())


def test_the_manifest_holds_hash_size_type_source_and_configuration(tmp_path, hf, toy):
    report = convert(hf(), tmp_path / "x.ckpt", dtype="float16")
    manifest = json.loads((tmp_path / "x.ckpt.manifest.json").read_text())
    digest = subprocess.run(["sha256sum", tmp_path / "x.ckpt"], capture_output=True, check=True, text=True).stdout.split()[0]
    assert manifest["files"] == [{"name": "x.ckpt", "size": (tmp_path / "x.ckpt").stat().st_size, "sha256": digest}]
    assert report.files[0].sha256 == digest
    assert manifest["dtypes"] == ["float16"]
    assert manifest["source"] == {"name": "hf", "format": "hf-safetensors"}
    assert manifest["model"]["num_kv_heads"] == toy.num_kv_heads


def test_a_file_whose_size_is_not_its_manifests_is_refused(tmp_path, hf):
    convert(hf(), tmp_path / "x.ckpt")
    with (tmp_path / "x.ckpt").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "x.ckpt")


def test_every_difference_is_listed_at_once_and_nothing_is_written(tmp_path, toy_weights):
    weights = toy_weights()
    weights["extra"] = np.ones(1, np.float32)
    weights["model.norm_out.weight"] = np.ones(31, np.float32)
    del weights["model.layers.1.feed_forward.w2.weight"]
    write_ckpt(tmp_path / "x.ckpt", weights.items())
    with pytest.raises(Findings) as caught:
        convert(tmp_path / "x.ckpt", tmp_path / "y.ckpt")
    assert {error.where for error in caught.value} == {"extra", "model.norm_out.weight", "model.layers.1.feed_forward.w2.weight"}
    assert os.listdir(tmp_path) == ["x.ckpt"]


def test_a_configuration_of_another_size_is_said(tmp_path, hf, toy):
    with pytest.raises(Findings, match="checkpoint of another model size: num_layers 2 there, 3 in the model"):
        convert(hf(), tmp_path / "y.ckpt", config=replace(toy, num_layers=3))


def test_quantised_weights_are_refused_by_name(tmp_path, toy_weights):
    weights = toy_weights()
    weights["model.layers.0.attention.wq.weight"] = weights["model.layers.0.attention.wq.weight"].astype(np.int8)
    write_ckpt(tmp_path / "x.ckpt", weights.items())
    with pytest.raises(CheckpointError, match=r"wq\.weight: is int8, which a weight cannot be.*before quantisation"):
        convert(tmp_path / "x.ckpt", tmp_path / "y.ckpt", dtype="float16")


def test_float64_needs_a_type_to_become(tmp_path, toy_weights):
    write_ckpt(tmp_path / "x.ckpt", toy_weights("float64").items())
    with pytest.raises(Findings, match="is float64.*--dtype float32"):
        convert(tmp_path / "x.ckpt", tmp_path / "y.ckpt")
    convert(tmp_path / "x.ckpt", tmp_path / "y.ckpt", dtype="float32")


def test_writing_hugging_face_needs_the_configuration_and_says_how(tmp_path, toy, toy_weights):
    write_ckpt(tmp_path / "x.ckpt", toy_weights().items())
    with pytest.raises(CheckpointError, match="give --config"):
        convert(tmp_path / "x.ckpt", tmp_path / "hf", to="hf")
    convert(tmp_path / "x.ckpt", tmp_path / "hf", to="hf", config=toy)
    assert open_checkpoint(tmp_path / "hf").config == toy


@pytest.mark.parametrize(
    ("target", "to", "message"),
    [
        ("x.ckpt", None, "is the source"),
        ("out", "ms", r"is a file ending in \.ckpt"),
        ("out.bin", "hf", "is a directory of safetensors"),
        ("out.ckpt", "safetensors", r"ends in \.ckpt"),
        ("out", "gguf", "one of ms, hf, safetensors"),
        ("taken.ckpt", None, "exists already"),
        ("taken-dir", "hf", "exists already and is not empty"),
        ("taken.ckpt", "hf", "is a file name"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_outputs_that_cannot_be_are_refused_also_in_a_dry_run(tmp_path, toy, toy_weights, target, to, message, dry_run):
    write_ckpt(tmp_path / "x.ckpt", toy_weights().items())
    (tmp_path / "taken.ckpt").write_bytes(b"mine")
    (tmp_path / "taken-dir").mkdir()
    (tmp_path / "taken-dir" / "file").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "x.ckpt", tmp_path / target, to=to, config=toy, options=Options(dry_run=dry_run))
    assert (tmp_path / "taken.ckpt").read_bytes() == (tmp_path / "taken-dir" / "file").read_bytes() == b"mine"


def test_a_file_of_the_source_is_not_overwritten_even_with_force(tmp_path, hf):
    folder = hf()
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="is the source"):
        convert(folder, folder / "model.safetensors", force=True)
    with pytest.raises(CheckpointError, match="is the source"):
        convert(folder, folder, to="hf", dtype="float16", force=True)
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_dry_run_reports_and_writes_nothing(tmp_path, hf):
    folder = hf()
    report = convert(folder, tmp_path / "x.ckpt", dtype="float16", options=Options(dry_run=True))
    assert report.dry_run
    assert report.bytes_written == report.bytes_read // 2
    assert os.listdir(tmp_path) == ["hf"]


def test_force_replaces_older_weights_of_a_directory_and_keeps_other_files(tmp_path, hf, toy_weights):
    folder = hf()
    convert(folder, tmp_path / "out", to="hf", options=Options(max_shard_bytes=10_000))
    (tmp_path / "out" / "README.md").write_text("mine")
    convert(folder, tmp_path / "out", to="hf", dtype="float16", force=True)
    assert [file.name for file in (tmp_path / "out").glob("model*")] == ["model.safetensors"]
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    assert_same_bytes(tmp_path / "out", {name: value.astype(np.float16) for name, value in toy_weights().items()})


@pytest.mark.parametrize("target", ["y.ckpt", "y.safetensors", "dir", "hf-out"])
def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch, hf, target):
    folder = hf()
    real = files.Output.write_array
    written = []

    def full_after_three(self, values):
        written.append(values.nbytes)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, values)

    monkeypatch.setattr(files.Output, "write_array", full_after_three)
    with pytest.raises(CheckpointError, match="the disk is full; nothing was left behind") as caught:
        convert(folder, tmp_path / target, to="hf" if target == "hf-out" else None)
    assert caught.value.where == str(tmp_path / target)
    assert os.listdir(tmp_path) == ["hf"]


def test_too_little_space_is_seen_before_anything_is_written(tmp_path, monkeypatch, hf):
    folder = hf()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match=r"needs 68\.22 KB, the disk of .* has 1\.00 KB free"):
        convert(folder, tmp_path / "x.ckpt")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_really_full_disk(tmp_path, monkeypatch, hf):
    folder, disk = hf(), tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        monkeypatch.setattr("mindformers_codellama.checkpoint.convert.require_space", lambda path, needed: None)
        with pytest.raises(CheckpointError, match="the disk is full"):
            convert(folder, disk / "x.ckpt")
        with pytest.raises(CheckpointError, match="the disk is full"):
            convert(folder, disk, to="hf")  # a disk of its own, so nothing can be renamed into it from beside it
        assert os.listdir(disk) == []
        subprocess.run(["mount", "-o", "remount,size=100k", disk], check=True)
        convert(folder, disk, to="hf")
        assert sorted(os.listdir(disk)) == ["config.json", "generation_config.json", "model.safetensors", "tokenizer.model"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_when_only_the_manifest_finds_no_room_the_weights_stay_and_the_message_says_so(tmp_path, monkeypatch, hf, toy_weights):
    folder = hf()
    (tmp_path / "x.ckpt.manifest.json").write_text("older")

    def full(*arguments, **options):
        raise CheckpointError("x", "the disk is full; nothing was left behind.")

    monkeypatch.setattr("mindformers_codellama.checkpoint.convert.write_manifest", full)
    with pytest.raises(CheckpointError, match=r"could not be written \(the disk is full\); the weights beside it are whole"):
        convert(folder, tmp_path / "x.ckpt")
    assert not (tmp_path / "x.ckpt.manifest.json").exists()
    assert_same_bytes(tmp_path / "x.ckpt", toy_weights())


@pytest.mark.parametrize("name", [".", "..", "sub"])
def test_the_working_directory_can_be_the_output(tmp_path, monkeypatch, hf, toy_weights, name):
    folder = hf()
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    convert(folder, name, to="hf", force=True)
    assert_same_bytes((tmp_path / "here" / name).resolve(), toy_weights())
    assert not list(tmp_path.rglob("*.tmp"))


def test_rotary_pairs_reorders_wq_and_wk_only(tmp_path, toy, toy_weights):
    weights = toy_weights()
    write_ckpt(tmp_path / "x.ckpt", weights.items())
    (tmp_path / "params.json").write_text(json.dumps({"n_heads": 4, "n_kv_heads": 2, "dim": 32}))
    convert(tmp_path / "x.ckpt", tmp_path / "y.ckpt", options=Options(rotary_pairs=tmp_path / "params.json"))
    heads = {"wq": 4, "wk": 2}
    for name, value in weights.items():
        kind = next((kind for kind in heads if f".{kind}." in name), None)
        wanted = pairs_to_halves(value, heads[kind]) if kind else value
        np.testing.assert_array_equal(open_checkpoint(tmp_path / "y.ckpt").read(name), wanted)


def test_an_unreadable_source_says_why(tmp_path, monkeypatch, hf):
    folder = hf()

    def refuse(self, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read: Permission denied"):
        convert(folder, tmp_path / "x.ckpt")


def test_tokenizer_files_go_with_the_weights_or_their_absence_is_said(tmp_path, hf, toy):
    assert not convert(hf(), tmp_path / "one", to="safetensors").notes
    assert (tmp_path / "one" / "tokenizer.model").read_bytes() == b"pieces"
    convert(tmp_path / "one", tmp_path / "x.ckpt")
    report = convert(tmp_path / "x.ckpt", tmp_path / "two", to="hf")
    assert report.notes == ("no tokenizer files beside the source; give --tokenizer to have them in the directory.",)
    options = Options(tokenizer=tmp_path / "one" / "tokenizer.model")
    assert not convert(tmp_path / "x.ckpt", tmp_path / "three", to="hf", options=options).notes
    assert (tmp_path / "three" / "tokenizer.model").read_bytes() == b"pieces"
    with pytest.raises(CheckpointError, match="does not exist"):
        convert(tmp_path / "x.ckpt", tmp_path / "four", options=Options(tokenizer=tmp_path / "none"))
