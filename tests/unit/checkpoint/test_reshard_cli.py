"""`codellama shard`, `merge` and `reshard`, `transform_ckpt.py` and `cut_weight.sh` as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from shards_case import MODEL, STATE, STATE_TEXT, expected_part, model_layout, whole_tensors, write_shards

from mindformers_codellama.checkpoint import files as output_files
from mindformers_codellama.checkpoint.ckpt_format import read_ckpt, write_ckpt
from mindformers_codellama.checkpoint.hf_config import hf_config
from mindformers_codellama.checkpoint.manifest import read_manifest
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.weight_map import to_theirs
from mindformers_codellama.cli.main import main
from mindformers_codellama.cli.transform_ckpt import transform_arguments
from mindformers_codellama.layout.strategy_files import write_strategy

ROOT = Path(__file__).parents[3]
WHOLE = whole_tensors()
ZERO = ["--parallel-optimizer", "--optimizer-threshold", "0"]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """As one process saves it."""
    path = tmp_path / "whole.ckpt"
    write_ckpt(path, {**WHOLE, **STATE, "codellama_train_state": STATE_TEXT}.items(), crc=True)
    return path


def refused(capsys: pytest.CaptureFixture[str], words: list[str], code: int = 3) -> str:
    assert main(words) == code
    shown = capsys.readouterr().err
    assert shown.startswith("codellama: error: ")
    assert "Traceback" not in shown
    return shown


def test_cut_and_joined_the_file_is_the_same(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts, back = str(tmp_path / "parts"), tmp_path / "back.ckpt"
    assert main(["shard", str(whole), parts, "--layout", "2x2x2", *ZERO, "--workers", "2"]) == 0
    assert "8 files, layout 2x2x2" in capsys.readouterr().out
    layout = model_layout(2, 2, 2, zero=True, vocabulary=True)
    for rank in range(8):
        found = read_ckpt(tmp_path / f"parts/rank_{rank}/checkpoint_{rank}.ckpt")
        wanted = {name: part for name, values in WHOLE.items() if (part := expected_part(name, values, layout, rank)) is not None}
        assert {name for name in found if not name.startswith("codellama_")} == {*wanted, *STATE}
        for name, part in wanted.items():
            np.testing.assert_array_equal(found[name], part)
    assert main(["merge", parts, str(back), "--verify"]) == 0
    assert back.read_bytes() == whole.read_bytes()
    # by way of another layout, safetensors, and a folder with one rank
    assert main(["reshard", parts, str(tmp_path / "b"), "--layout", "1x4x1", "--format", "safetensors", "--json"]) == 0
    assert main(["reshard", str(tmp_path / "b"), str(tmp_path / "c"), "--layout", "4x1x4", "--format", "ckpt"]) == 0
    assert main(["reshard", str(tmp_path / "c"), str(tmp_path / "d"), "--whole"]) == 0
    one = (tmp_path / "d/rank_0/checkpoint_0.ckpt").read_bytes()
    assert one == whole.read_bytes()[:-17]  # safetensors have no checksum to hand on


def test_a_file_in_any_order_comes_back_in_its_order(tmp_path: Path) -> None:
    weights = whole_tensors(moments=False)
    path = tmp_path / "odd.ckpt"
    write_ckpt(path, sorted(weights.items(), reverse=True))
    assert main(["shard", str(path), str(tmp_path / "parts"), "--layout", "1x2x2"]) == 0
    assert main(["merge", str(tmp_path / "parts"), str(tmp_path / "back.ckpt")]) == 0
    assert (tmp_path / "back.ckpt").read_bytes() == path.read_bytes()


def test_the_manifest_says_what_there_is(tmp_path: Path, whole: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(hf_config(MODEL, "float32")))
    main(["shard", str(whole), str(tmp_path / "p"), "--layout", "1x2x1", "--config", str(config), "--weights-only"])
    model, manifest = read_manifest(tmp_path / "p")
    assert model is not None
    assert (model.num_heads, model.num_kv_heads) == (MODEL.num_heads, MODEL.num_kv_heads)
    assert [entry["name"] for entry in manifest["files"]] == ["rank_0/checkpoint_0.ckpt", "rank_1/checkpoint_1.ckpt"]
    assert (manifest["sharding"]["layout"], manifest["sharding"]["complete"]) == ("1x2x1", True)
    assert manifest["tensors"] == len(whole_tensors(moments=False))
    reader = open_checkpoint(tmp_path / "p")
    assert set(reader.names()) == set(whole_tensors(moments=False))
    assert not reader.strings


def test_a_hugging_face_directory_is_cut_and_its_tokenizer_goes_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    weights = whole_tensors(moments=False)
    save_file({str(to_theirs(name)): values for name, values in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(MODEL, "float32")))
    (folder / "tokenizer.model").write_bytes(b"tokens")
    environment = {**os.environ, "input_dir": str(folder), "output_dir": str(tmp_path / "parts")}
    script = ["bash", str(ROOT / "scripts/cut_weight.sh")]
    done = subprocess.run([*script, "--float", "2"], env=environment, capture_output=True, text=True, check=True)
    assert "2 files, layout 1x2x1" in done.stdout
    assert (tmp_path / "parts/tokenizer.model").read_bytes() == b"tokens"
    layout = model_layout(1, 2, 1)
    for rank in (0, 1):
        found = read_ckpt(tmp_path / f"parts/rank_{rank}/checkpoint_{rank}.ckpt")
        for name, values in weights.items():
            np.testing.assert_array_equal(found[name], expected_part(name, values, layout, rank))
    assert main(["convert", str(tmp_path / "parts"), str(tmp_path / "back"), "--to", "hf"]) == 0
    assert (tmp_path / "back/model.safetensors").stat().st_size > 0
    again = open_checkpoint(tmp_path / "back")
    assert all(again.read(name).tobytes() == values.tobytes() for name, values in weights.items())
    for words, text in ((["--quant", "2"], "are not cut over ranks"), (["--float", "x"], "number of parts"), ([], "expected --float N")):
        bad = subprocess.run([*script, *words], env=environment, capture_output=True, text=True, check=False)
        assert bad.returncode == 2
        assert text in bad.stderr
    bad = subprocess.run([*script, "--float", "3"], env=environment | {"output_dir": "x"}, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "take one of 1, 2, 4" in bad.stderr


@pytest.mark.parametrize("described", [True, False])
def test_transform_ckpt_takes_mindformers_flags(tmp_path: Path, whole: Path, described: bool) -> None:
    source, target = model_layout(2, 2, 2, zero=True), model_layout(1, 4, 1)
    write_shards(tmp_path / "out/checkpoint", source, WHOLE, described=described)
    for rank in range(8):
        write_strategy(tmp_path / "out/strategy", source, rank)
    for rank in range(4):
        write_strategy(tmp_path / "new", target, rank)
    script = [str(tmp_path / "out/strategy"), str(tmp_path / "out/checkpoint/")]
    flags = ["--src_ckpt_strategy", script[0], "--src_ckpt_dir", script[1], "--dst_ckpt_dir"]
    assert main(transform_arguments([*flags, str(tmp_path / "one"), "--prefix", "llama2_7b"])) == 0
    found = read_ckpt(tmp_path / "one/rank_0/llama2_7b0.ckpt")
    assert all(np.array_equal(found[name], values) for name, values in WHOLE.items())
    if described:
        assert (tmp_path / "one/rank_0/llama2_7b0.ckpt").read_bytes() == whole.read_bytes()
    more = [str(tmp_path / "four"), "--dst_ckpt_strategy", str(tmp_path / "new/ckpt_strategy_rank_0.ckpt")]
    assert main(transform_arguments([*flags, *more])) == 0
    for rank in range(4):
        found = read_ckpt(tmp_path / f"four/rank_{rank}/checkpoint_{rank}.ckpt")
        for name, values in WHOLE.items():
            np.testing.assert_array_equal(found[name], expected_part(name, values, target, rank))
    # and on, without any strategy, since what we wrote says where it belongs
    assert main(transform_arguments(["--src_ckpt_dir", str(tmp_path / "four"), "--dst_ckpt_dir", str(tmp_path / "last")])) == 0
    found = read_ckpt(tmp_path / "last/rank_0/checkpoint_0.ckpt")
    assert all(np.array_equal(found[name], values) for name, values in WHOLE.items())


def test_the_transform_script_runs_and_says_what_is_missing() -> None:
    script = [os.fspath(ROOT / "tools/transform_ckpt.py")]
    shown = subprocess.run([sys.executable, *script, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(flag in shown for flag in ("--src_ckpt_strategy", "--dst_ckpt_strategy", "--src_ckpt_dir", "--dst_ckpt_dir", "--prefix"))
    assert subprocess.run([sys.executable, *script], capture_output=True, check=False).returncode == 2


def test_a_yaml_file_says_how_to_cut(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        "run_mode": "finetune",
        "use_parallel": True,
        "parallel": {"enable_parallel_optimizer": True, "parallel_optimizer_config": {"parallel_optimizer_threshold": 0}},
        "parallel_config": {"data_parallel": 2, "model_parallel": 2, "pipeline_stage": 1, "vocab_emb_dp": False},
        "model": {
            "model_config": {
                "type": "LlamaConfig",
                "vocab_size": MODEL.vocab_size,
                "hidden_size": MODEL.hidden_size,
                "num_layers": MODEL.num_layers,
                "num_heads": MODEL.num_heads,
                "n_kv_heads": MODEL.num_kv_heads,
                "intermediate_size": MODEL.intermediate_size,
                "seq_length": 16,
            }
        },
    }
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    assert main(["shard", str(whole), str(tmp_path / "p"), "--config", str(tmp_path / "run.yaml")]) == 0
    layout = model_layout(2, 2, 1, zero=True, vocabulary=True)
    found = read_ckpt(tmp_path / "p/rank_3/checkpoint_3.ckpt")
    for name, values_of in WHOLE.items():
        np.testing.assert_array_equal(found[name], expected_part(name, values_of, layout, 3))
    words = ["shard", str(whole), str(tmp_path / "q"), "--config", str(tmp_path / "run.yaml"), "--cut-vocabulary"]
    assert "is a YAML file, which says" in refused(capsys, words, 2)


def test_a_dry_run_writes_nothing_and_a_second_run_does_nothing(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shard", str(whole), str(tmp_path / "p"), "--layout", "1x2x1"]
    assert main([*words, "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert not (tmp_path / "p").exists()
    assert main(words) == 0
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["skipped"], report["bytes_written"], len(report["files"])) == (2, 0, 2)


def test_an_existing_output_is_replaced_only_with_force(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "p"
    words = ["shard", str(whole), str(target), "--layout"]
    assert main([*words, "1x4x1"]) == 0
    (target / "rank_0/mine.ckpt").write_bytes(b"not ours to delete")
    assert "exists already" in refused(capsys, [*words, "1x2x1"])
    assert main([*words, "1x2x1", "--force"]) == 0
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*.ckpt")) == [
        "rank_0/checkpoint_0.ckpt",
        "rank_0/mine.ckpt",
        "rank_1/checkpoint_1.ckpt",
        "strategy/ckpt_strategy_rank_0.ckpt",
        "strategy/ckpt_strategy_rank_1.ckpt",
    ]
    merged = tmp_path / "m.ckpt"
    merged.write_bytes(b"")
    assert "exists already" in refused(capsys, ["merge", str(target), str(merged), "--source-prefix", "checkpoint"])
    assert main(["merge", str(target), str(merged), "--source-prefix", "checkpoint", "--force"]) == 0
    assert merged.read_bytes() == whole.read_bytes()


def test_a_changed_file_is_written_again(tmp_path: Path, whole: Path) -> None:
    words = ["shard", str(whole), str(tmp_path / "p"), "--layout", "1x2x1"]
    main(words)
    path = tmp_path / "p/rank_1/checkpoint_1.ckpt"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"?")  # same size, another hash
    assert main(words) == 0
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        (["shard", "{whole}", "{out}"], "--layout: is missing", 2),
        (["shard", "{whole}", "{out}", "--layout", "2x2"], "got '2x2'", 2),
        (["shard", "{whole}", "{out}", "--layout", "0x2x1"], "got '0x2x1'", 2),
        (["shard", "{whole}", "{out}", "--layout", "1x3x1"], "model_parallel 3 does not divide", 2),
        (["shard", "{whole}", "{out}", "--layout", "1x1x5"], "5 stages for 4 layers", 2),
        (["shard", "{whole}", "{out}", "--layout", "1x8x1", "--config", "{config}"], "does not divide n_kv_heads (4)", 2),
        (["shard", "{whole}", "{out}", "--layout", "1x2x1", "--config", "codellama_7b"], "is missing in", 3),
        (["shard", "{whole}", "{out}.ckpt", "--layout", "1x2x1"], "shards go into a folder", 2),
        (["shard", "{whole}", "{out}", "--layout", "1x2x1", "--workers", "0"], "--workers: got 0", 2),
        (["shard", "{out}/none", "{out}", "--layout", "1x2x1"], "does not exist", 3),
        (["merge", "{whole}", "{out}"], "is no file name of a checkpoint", 2),
        (["merge", "{whole}", "{whole}", "--force"], "is the source", 3),
        (["merge", "{whole}", "{config}/x.ckpt"], "cannot be written", 3),
        (["shard", "{whole}", "{config}/x", "--layout", "1x2x1"], "cannot be written", 3),
        (["reshard", "{whole}", "{out}", "--whole", "--layout", "1x1x1"], "exclude each other", 2),
        (["reshard", "{whole}", "{out}", "--target-strategy", "{whole}"], "is not a MindSpore strategy file", 3),
        (["reshard", "{whole}", "{out}", "--target-strategy", "{out}/none"], "does not exist", 3),
    ],
)
def test_what_is_refused(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str, code: int) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(hf_config(MODEL, "float32")))
    shown = refused(capsys, [word.format(whole=whole, out=tmp_path / "out", config=config) for word in words], code)
    assert text in shown
    assert not (tmp_path / "out").exists()


def test_one_ranks_file_alone_and_a_strategy_of_another_model_are_refused(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_shards(tmp_path / "parts", model_layout(1, 2, 1), WHOLE)
    shown = refused(capsys, ["reshard", str(files[1]), str(tmp_path / "out"), "--layout", "1x1x1"])
    assert "is the part of rank 1 of 2" in shown
    assert "is the source" in refused(capsys, ["reshard", str(tmp_path / "parts"), str(tmp_path / "parts"), "--layout", "1x1x1", "--force"])
    smaller = {name: values for name, values in WHOLE.items() if ".layers.3." not in name}
    write_ckpt(tmp_path / "smaller.ckpt", smaller.items())
    write_strategy(tmp_path / "strategy", model_layout(1, 2, 1), 0)
    words = ["reshard", str(tmp_path / "smaller.ckpt"), str(tmp_path / "out"), "--target-strategy", str(tmp_path / "strategy")]
    assert "but not in the checkpoint" in refused(capsys, words)


def test_a_full_disk_is_seen_before_anything_is_written(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(output_files.shutil, "disk_usage", lambda path: usage)
    shown = refused(capsys, ["shard", str(whole), str(tmp_path / "p"), "--layout", "1x2x1"])
    assert "1.00 KB free" in shown
    assert not (tmp_path / "p").exists()
