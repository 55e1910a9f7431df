"""Adapter directories: what is written is read, what is wrong with one is said, and merging is float64's sum, rounded."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_codellama.checkpoint.adapter_config import AdapterConfig
from mindformers_codellama.checkpoint.adapter_format import LowRank, read_adapter, write_adapter
from mindformers_codellama.checkpoint.ckpt_format import read_ckpt, write_ckpt
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes
from mindformers_codellama.cli.main import main
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CodeLlamaError

CONFIG = ModelConfig(vocab_size=40, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=24)
QUERY, DOWN = "model.layers.1.attention.wq.weight", "model.layers.0.feed_forward.w2.weight"
HF_QUERY = "base_model.model.model.layers.1.self_attn.q_proj"


def pair(name, rank=3, seed=0, config=CONFIG):
    rows, columns = expected_shapes(Sizes.of(config))[name]
    rng = np.random.default_rng(seed)
    return LowRank(rng.standard_normal((rank, columns)).astype(np.float32), rng.standard_normal((rows, rank)).astype(np.float32), 2.0)


@pytest.fixture
def adapter(tmp_path):
    """An adapter of two layers, rank 3 and scale 6 / 3."""
    write_adapter(tmp_path / "a", AdapterConfig(rank=3, alpha=6, base_model="toy"), {QUERY: pair(QUERY), DOWN: pair(DOWN, seed=1)})
    return tmp_path / "a"


@pytest.fixture
def checkpoint(tmp_path):
    rng = np.random.default_rng(5)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(Sizes.of(CONFIG)).items()}
    write_ckpt(tmp_path / "base.ckpt", weights.items())
    return tmp_path / "base.ckpt"


def change(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rename(folder, old, new):
    path = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): values for name, values in load_file(path).items()}, path)


def spoil(folder):
    path = folder / "adapter_model.safetensors"
    held = load_file(path)
    held[f"{HF_QUERY}.lora_B.weight"][0, 0] = np.inf
    save_file(held, path)


def test_names_and_values_are_peft_s(adapter):
    found = load_file(adapter / "adapter_model.safetensors")
    layer = "base_model.model.model.layers.0.mlp.down_proj"
    assert sorted(found) == [f"{module}.lora_{side}.weight" for module in (layer, HF_QUERY) for side in "AB"]
    assert np.array_equal(found[f"{HF_QUERY}.lora_A.weight"], pair(QUERY).a)
    assert json.loads((adapter / "adapter_config.json").read_text())["target_modules"] == ["down_proj", "q_proj"]
    again = read_adapter(adapter)
    assert again.config.base_model == "toy"
    assert all(np.array_equal(again.weights[name].b, one.b) for name, one in ((QUERY, pair(QUERY)), (DOWN, pair(DOWN, seed=1))))
    assert again.weights[QUERY].scale == 2.0


@pytest.mark.parametrize("dtype", ["keep", "bf16", "fp16"])
def test_merge_lora_is_the_sum_of_float64_rounded_once(tmp_path, adapter, checkpoint, dtype, capsys):
    assert main(["merge-lora", str(checkpoint), str(adapter), str(tmp_path / "m.ckpt"), "--dtype", dtype]) == 0
    assert "wrote" in capsys.readouterr().out
    before, after = read_ckpt(checkpoint), open_checkpoint(tmp_path / "m.ckpt")
    ulp = {"keep": 2.0**-23, "bf16": 2.0**-8, "fp16": 2.0**-11}[dtype]
    for name, held in before.items():
        found = after.read(name).astype(np.float64)
        wanted = held.astype(np.float64)
        if name in (QUERY, DOWN):
            one = pair(name, seed=int(name == DOWN))
            wanted = wanted + 2.0 * (one.b.astype(np.float64) @ one.a.astype(np.float64))
        # half a place of the type (of its smallest, for float16), and what sums of numbers below 30 in float32 may lose
        np.testing.assert_allclose(found, wanted, rtol=ulp, atol=3e-5 if name in (QUERY, DOWN) else 2.0**-25, err_msg=name)


def test_a_whole_merge_is_refused_before_anything_is_written(tmp_path, adapter, checkpoint, capsys):
    rename(adapter, "layers.1.", "layers.7.")
    assert main(["merge-lora", str(checkpoint), str(adapter), str(tmp_path / "m.ckpt")]) == 3
    assert "1 modules this model has not: model.layers.7.self_attn.q_proj" in capsys.readouterr().err
    assert not (tmp_path / "m.ckpt").exists()


def test_shapes_of_another_model_are_refused(tmp_path, checkpoint, capsys):
    other = ModelConfig(vocab_size=40, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=24)
    write_adapter(tmp_path / "b", AdapterConfig(rank=3, alpha=6, base_model="big"), {QUERY: pair(QUERY, config=other)})
    assert main(["merge-lora", str(checkpoint), str(tmp_path / "b"), str(tmp_path / "m.ckpt")]) == 3
    told = capsys.readouterr().err
    assert "layers.1.self_attn.q_proj is [32, 32] in the adapter and [16, 16] in the model" in told
    assert "use it with the model it was trained on (big)" in told


BROKEN = {
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json: cannot be read"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: is missing"),
    "no json": (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not JSON"),
    "a list": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "is not a JSON object"),
    "cut short": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"1234"), "not a safetensors file"),
    "another rank": (lambda folder: change(folder, r=4), r"has A \[3, 24\] and B \[16, 3\], but by adapter_config.json A is \[4, I\]"),
    "rank 0": (lambda folder: change(folder, r=0), "r: is 0, not a whole number of at least 1"),
    "alpha is no number": (lambda folder: change(folder, lora_alpha=float("nan")), "lora_alpha: is nan, not a finite number"),
    "diverged": (lambda folder: spoil(folder), "q_proj: holds NaN or infinite values"),
    "another method": (lambda folder: change(folder, peft_type="IA3"), "peft_type: is 'IA3'; only LORA"),
    "unknown key": (lambda folder: change(folder, use_new_trick=True), "use_new_trick: is True.*unknown here"),
    "dora": (lambda folder: change(folder, use_dora=True), "use_dora: is True.*DoRA"),
    "pattern": (lambda folder: change(folder, rank_pattern={"q_proj": "x"}), "rank_pattern: is not an object"),
    "no B": (lambda folder: rename(folder, "q_proj.lora_B", "k_proj.lora_B"), r"q_proj: has no lora_B"),
    "another network": (lambda folder: rename(folder, "self_attn.q_proj", "attn.c_attn"), "c_attn.lora_A.weight: belongs to no linear"),
    "a norm": (lambda folder: rename(folder, "self_attn.q_proj", "input_layernorm"), "input_layernorm.lora_A.weight: belongs to no linear"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_adapter_is_refused_with_its_place(adapter, case):
    damage, words = BROKEN[case]
    damage(adapter)
    with pytest.raises(CodeLlamaError, match=words):
        read_adapter(adapter)


def test_keys_that_change_nothing_are_passed_over(adapter):
    change(adapter, use_new_trick=None, revision="main", eva_config={"rho": 2.0}, layers_to_transform=[0, 1], exclude_modules=None)
    assert read_adapter(adapter).config.rank == 3


def test_a_file_of_torch_is_read_without_it(adapter):
    torch = pytest.importorskip("torch", reason="writes the file")
    weights = load_file(adapter / "adapter_model.safetensors")
    torch.save({name: torch.from_numpy(values.copy()) for name, values in weights.items()}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert np.array_equal(read_adapter(adapter).weights[QUERY].a, pair(QUERY).a)


def test_no_directory(tmp_path):
    with pytest.raises(CodeLlamaError, match="nowhere: does not exist"):
        read_adapter(tmp_path / "nowhere")
