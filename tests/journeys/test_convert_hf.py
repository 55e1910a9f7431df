"""Directories of transformers' `save_pretrained` and of `torch.save`, there and back; torch is the oracle."""

import itertools

import numpy as np
import pytest

from mindformers_codellama.checkpoint.convert import Options, convert
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.weight_map import to_ours

torch = pytest.importorskip("torch", reason="torch and transformers write the checkpoints these tests convert")
transformers = pytest.importorskip("transformers")

IDS = torch.arange(1, 25)[None]
FORMS = list(itertools.product([4, 2], ["float32", "float16", "bfloat16"], [False, True]))


def toy_model(kv_heads, dtype, **extra):
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        intermediate_size=48,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
        **extra,
    )
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    for index, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.2 + 0.01 * index)  # norms too, so that none is all ones
    return model


def tensor_bytes(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert isinstance(model, transformers.LlamaForCausalLM)
    return model.eval()


@pytest.mark.parametrize(("kv_heads", "dtype", "sharded"), FORMS)
def test_save_pretrained_to_ckpt_and_back_gives_identical_bytes_and_logits(tmp_path, kv_heads, dtype, sharded):
    model = toy_model(kv_heads, dtype)
    model.save_pretrained(tmp_path / "hf", max_shard_size="12KB" if sharded else "1GB")
    assert len(list((tmp_path / "hf").glob("model*.safetensors"))) > (2 if sharded else 0)
    convert(tmp_path / "hf", tmp_path / "x.ckpt")
    convert(tmp_path / "x.ckpt", tmp_path / "back", options=Options(max_shard_bytes=12_000 if sharded else 10**9))
    assert sorted(file.name for file in (tmp_path / "back").iterdir()) == sorted(file.name for file in (tmp_path / "hf").iterdir())
    for file in (tmp_path / "hf").iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes(), file.name
    returned = load(tmp_path / "back")
    assert returned.dtype == model.dtype
    state = returned.state_dict()
    assert list(state) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert tensor_bytes(state[name]) == tensor_bytes(tensor), name
    with torch.no_grad():
        assert torch.equal(returned(IDS).logits, load(tmp_path / "hf")(IDS).logits)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before-1.6"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_pytorch_model_bin_gives_the_bytes_of_the_state_dict(tmp_path, dtype, new_format):
    model = toy_model(2, dtype)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
    convert(tmp_path, tmp_path / "x.ckpt")
    reader = open_checkpoint(tmp_path / "x.ckpt")
    assert len(reader.names()) == len(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert reader.read(to_ours(name)).tobytes() == tensor_bytes(tensor)


def test_a_head_tied_to_the_embedding_is_written_out(tmp_path):
    model = toy_model(2, "float32", tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "x.ckpt")
    head = open_checkpoint(tmp_path / "x.ckpt").read("lm_head.weight")
    np.testing.assert_array_equal(head, model.model.embed_tokens.weight.detach().numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_casting_gives_the_bytes_that_torch_gives(tmp_path, dtype):
    model = toy_model(2, "float32")
    model.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "x.ckpt", dtype=dtype)
    reader = open_checkpoint(tmp_path / "x.ckpt")
    for name, tensor in model.state_dict().items():
        assert reader.read(to_ours(name)).tobytes() == tensor_bytes(tensor.to(getattr(torch, dtype)))
