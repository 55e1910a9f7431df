"""`open_checkpoint` on every kind of path that needs no torch to be made."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.hf_config import hf_config
from mindformers_codellama.checkpoint.latest import get_last_checkpoint
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.weight_map import to_theirs
from mindformers_codellama.errors import CheckpointError


def assert_holds(reader, weights):
    assert set(reader.names()) == set(weights)
    for name, value in weights.items():
        assert reader.shape(name) == value.shape
        np.testing.assert_array_equal(reader.read(name), value)


def write_hf(folder, weights, config=None, extra=None):
    folder.mkdir(exist_ok=True)
    save_file({to_theirs(name): value for name, value in weights.items()} | (extra or {}), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(hf_config(config, "float32")))


def test_a_hugging_face_directory_under_our_names_without_stored_angles(tmp_path, toy, toy_weights):
    angles = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    write_hf(tmp_path / "hf", toy_weights(), toy, extra=angles)
    reader = open_checkpoint(tmp_path / "hf")
    assert_holds(reader, toy_weights())
    assert reader.config == toy
    assert reader.dropped == tuple(angles)
    assert reader.metadata["format"] == "hf-safetensors"


def test_a_single_ckpt_file(tmp_path, toy_weights):
    write_ckpt(tmp_path / "x.ckpt", toy_weights().items())
    assert_holds(open_checkpoint(tmp_path / "x.ckpt"), toy_weights())


def test_tied_heads_are_the_embedding(tmp_path, toy, toy_weights):
    weights = toy_weights()
    head = weights.pop("lm_head.weight")
    write_hf(tmp_path / "hf", weights)
    (tmp_path / "hf" / "config.json").write_text(json.dumps(hf_config(toy, "float32") | {"tie_word_embeddings": True}))
    found = open_checkpoint(tmp_path / "hf").read("lm_head.weight")
    np.testing.assert_array_equal(found, weights["model.tok_embeddings.embedding_weight"])
    assert not np.array_equal(found, head)


def test_qkv_concat_is_split_into_q_k_v_rows(tmp_path, toy_weights):
    weights = toy_weights()
    joined = {}
    for name, value in weights.items():
        if ".attention.wq." in name:
            parts = [weights[name.replace("wq", part)] for part in ("wq", "wk", "wv")]
            joined[name.replace(".wq.", ".w.")] = np.concatenate(parts)
        elif ".attention.wk." not in name and ".attention.wv." not in name:
            joined[name] = value
    write_ckpt(tmp_path / "x.ckpt", joined.items())
    assert_holds(open_checkpoint(tmp_path / "x.ckpt"), weights)


def test_qkv_concat_of_an_impossible_shape_is_refused(tmp_path):
    write_ckpt(tmp_path / "x.ckpt", [("model.layers.0.attention.w.weight", np.ones((9, 8), np.float32))])
    with pytest.raises(CheckpointError, match=r"\[9, 8\], which is not \[q; k; v\] rows"):
        open_checkpoint(tmp_path / "x.ckpt")


def test_a_run_directory_gives_the_newest_of_rank_0(tmp_path, toy_weights):
    for step, seed in [(100, 1), (90, 2), (20, 3)]:
        write_ckpt(tmp_path / "checkpoint" / "rank_0" / f"toy_rank_0-1_{step}.ckpt", toy_weights(seed=seed).items())
    assert_holds(open_checkpoint(tmp_path), toy_weights(seed=1))
    assert_holds(open_checkpoint(tmp_path / "checkpoint"), toy_weights(seed=1))


def test_several_parts_of_one_model_in_a_directory_are_one_checkpoint(tmp_path, toy_weights):
    weights = list(toy_weights().items())
    write_ckpt(tmp_path / "part-a.ckpt", weights[:5])
    write_ckpt(tmp_path / "part-b.ckpt", weights[5:])
    assert_holds(open_checkpoint(tmp_path), dict(weights))


def test_the_newest_is_by_epoch_and_step_then_by_time(tmp_path):
    one = [("w", np.ones(2, np.float32))]
    for name, age in [("x-1_200.ckpt", 10), ("x-2_5.ckpt", 50), ("y-2_5.ckpt", 40), ("x-network.ckpt", 1)]:
        write_ckpt(tmp_path / name, one)
        now = os.stat(tmp_path / name).st_mtime
        os.utime(tmp_path / name, (now - age, now - age))
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "y-2_5.ckpt")


def test_unfinished_and_damaged_files_are_passed_over(tmp_path, caplog):
    write_ckpt(tmp_path / "x-1_1.ckpt", [("w", np.ones(2, np.float32))])
    good = (tmp_path / "x-1_1.ckpt").read_bytes()
    (tmp_path / "x-1_2.ckpt").write_bytes(good[:-3])
    (tmp_path / ".x-1_3.ckpt.77.tmp").write_bytes(good)
    (tmp_path / ".x-1_4.ckpt").write_bytes(good)
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "x-1_1.ckpt")
    assert "passed over" in caplog.text


def test_no_checkpoint_is_none_and_no_directory_an_error(tmp_path):
    assert get_last_checkpoint(tmp_path) is None
    with pytest.raises(CheckpointError, match="is not a directory"):
        get_last_checkpoint(tmp_path / "none")


def test_paths_that_hold_nothing_say_what_is_wanted(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_checkpoint(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="no known kind"):
        open_checkpoint(tmp_path / "x.gguf")


def test_a_name_that_is_not_there_is_refused(tmp_path):
    write_ckpt(tmp_path / "x.ckpt", [("w", np.ones(2, np.float32))])
    with pytest.raises(CheckpointError, match="v: is not in this checkpoint"):
        open_checkpoint(tmp_path / "x.ckpt").read("v")
