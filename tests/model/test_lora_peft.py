"""Adapters beside the `peft` library: files of either are the other's, with the same logits; training makes the same A and B."""

import numpy as np
import pytest

from mindformers_codellama.checkpoint.adapter_format import WEIGHTS_FILE, read_adapter
from mindformers_codellama.checkpoint.convert import Options, convert
from mindformers_codellama.checkpoint.hf_config import read_hf_config
from mindformers_codellama.config.sections_pet import PetSection
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, ConfigError
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.model.initial import init_parameters
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.lora import add_adapter
from mindformers_codellama.model.loss import TrainingLoss
from mindformers_codellama.pipelines.causal_lm import LlamaForCausalLM
from mindformers_codellama.train.adapter import TrainedAdapter
from mindformers_codellama.train.loss_scale import LossScale
from mindformers_codellama.train.optimizer import AdamSettings, AdamUpdate
from mindformers_codellama.train.step import TrainStep

torch = pytest.importorskip("torch", reason="peft needs it")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="the oracle of these tests")

IDS = np.random.default_rng(4).integers(1, 64, (2, 13)).astype(np.int32)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CLOSE = {"rtol": 0, "atol": 2e-5}
"""Of logits around 1: both sum some hundred float32 products, in other orders."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Hugging Face directory of random weights."""
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        max_position_embeddings=64, rms_norm_eps=1e-5, rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("base") / "hf"
    model.save_pretrained(folder)
    return folder


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def logits_of(model):
    with torch.no_grad():
        return model(torch.from_numpy(IDS.astype(np.int64))).logits.numpy()


def ours(model):
    """Logits of every position, by the decoder that generates."""
    decoder = model.decoder(use_past=True)
    found = np.zeros((*IDS.shape, 64), np.float32)
    for row, start, logits in decoder.all_logits(IDS, np.array([13, 13], np.int32)):
        found[row, start : start + len(logits)] = logits
    return found


def peft_adapter(base, folder, **settings):
    """An adapter whose B is not zero, as PEFT writes it, and its logits."""
    torch.manual_seed(2)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": ALL, "task_type": "CAUSAL_LM"} | settings
    model = peft.get_peft_model(load(base), peft.LoraConfig(**settings)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return logits_of(model)


PATTERNS = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}}
HEAD = {"target_modules": ["lm_head", "q_proj"]}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=SLOW, id="plain"),
        pytest.param({"use_rslora": True}, marks=SLOW, id="rslora"),
        pytest.param(PATTERNS, id="patterns"),
        pytest.param(HEAD, marks=SLOW, id="head"),
    ],
)
def test_an_adapter_of_peft_gives_its_logits(tmp_path, graph_mode, base, settings):
    choose_kernels()
    wanted = peft_adapter(base, tmp_path / "a", **settings)
    model = LlamaForCausalLM.from_pretrained(base)
    before = ours(model)
    model.load_adapter(tmp_path / "a", "mine")
    model.set_adapter("mine")
    np.testing.assert_allclose(ours(model), wanted, **CLOSE)
    assert np.abs(wanted - before).max() > 0.1, "the adapter does something"
    model.set_adapter(None)
    assert np.array_equal(ours(model), before), "without an adapter everything is as it was"


@pytest.mark.parametrize("kernels", ["auto", pytest.param("off", marks=SLOW)])
def test_several_adapters_are_switched_and_answers_follow(tmp_path, graph_mode, base, kernels):
    choose_kernels(kernels)
    for number, name in enumerate("ab"):
        peft_adapter(base, tmp_path / name, lora_alpha=10 * (number + 1))
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 63}
    model = LlamaForCausalLM.from_pretrained(base)
    plain = model.generate(IDS[:, :5].tolist(), **options)
    assert [model.load_adapter(tmp_path / name) for name in "ab"] == ["a", "b"]
    answers = {}
    for name in ("a", "b", None, "b", "a", "base"):
        model.set_adapter(name)
        assert model.active_adapter == (None if name == "base" else name)
        found = [row.tolist() for row in model.generate(IDS[:, :5].tolist(), **options)]
        assert answers.setdefault(model.active_adapter, found) == found
        if name in ("a", "b"):
            torch_model = peft.PeftModel.from_pretrained(load(base), tmp_path / name).eval()
            for prompt, row in zip(IDS[:, :5], found, strict=True):
                wanted = torch_model.generate(input_ids=torch.from_numpy(prompt[None].astype(np.int64)), max_new_tokens=8, do_sample=False)
                assert row == wanted[0].tolist()[: len(row)]
    assert answers[None] == [row.tolist() for row in plain]
    assert answers["a"] != answers["b"] != answers[None]
    choose_kernels()


@pytest.mark.parametrize("compute_dtype", ["float32", pytest.param("bfloat16", marks=SLOW)])
def test_an_adapter_trained_here_is_peft_s(tmp_path, graph_mode, base, compute_dtype):
    """Five steps beside torch's AdamW on peft's modules, from the same A: the same loss, then the same A, B and logits."""
    if choose_kernels() is None:
        pytest.skip("the kernel library cannot be used")
    model = peft.get_peft_model(load(base), peft.LoraConfig(r=4, lora_alpha=8, target_modules=ALL, task_type="CAUSAL_LM"))
    pet = PetSection(lora_rank=4, lora_alpha=8, lora_dropout=0, target_modules=".*w")
    network, adapter = adapted(base, pet, compute_dtype)
    named = dict(model.named_parameters())
    for name, layer in adapter.layers.items():
        theirs = named[f"base_model.model.{peft_name(name)}.lora_A.default.weight"]
        theirs.data.copy_(torch.from_numpy(layer.lora_a.asnumpy().copy()))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, eps=1e-8, weight_decay=0.1)
    update = AdamUpdate(network.trainable_params(), AdamSettings(type="AdamW", eps=1e-8, weight_decay=0.1))
    step = TrainStep(TrainingLoss(network), update, columns=("input_ids",))
    assert step.by_kernels is not None
    ids = torch.from_numpy(IDS.astype(np.int64))
    near = 2e-5 if compute_dtype == "float32" else 2e-2  # bfloat16 keeps 8 bits of every factor
    for i in range(5):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        found = step([{"input_ids": IDS}], updates=i, learning_rate=1e-2, scale=LossScale(value=1.0))
        assert found.loss == pytest.approx(loss.item(), rel=near)
    adapter.write(tmp_path / "trained")
    if compute_dtype == "float32":
        for name, layer in adapter.layers.items():
            for side, values in (("A", layer.lora_a), ("B", layer.lora_b)):
                theirs = named[f"base_model.model.{peft_name(name)}.lora_{side}.default.weight"].detach().numpy()
                # Adam's steps of 0.01 have the gradient's sign: where it is next to nothing the sign is rounding's
                far = np.abs(values.asnumpy() - theirs) > 1e-4
                assert far.mean() < 0.01, (name, side, far.mean())
    read = peft.PeftModel.from_pretrained(load(base), tmp_path / "trained").eval()
    again = LlamaForCausalLM.from_pretrained(base)
    again.load_adapter(tmp_path / "trained")
    again.set_adapter("trained")
    np.testing.assert_allclose(ours(again), logits_of(read), **CLOSE)


def adapted(base, pet, compute_dtype):
    """A network with the base's weights below a fresh adapter."""
    import dataclasses

    from mindformers_codellama.checkpoint.load import load_into

    config = dataclasses.replace(read_hf_config(base / "config.json")[0], compute_dtype=compute_dtype)
    network = LlamaNetwork(config)
    init_parameters(network, 0)
    layers = add_adapter(network, pet, 7)
    load_into(network, base)
    network.set_train()
    return network, TrainedAdapter(pet, layers, str(base), "")


def peft_name(module):
    from mindformers_codellama.checkpoint.weight_map import to_theirs

    return to_theirs(f"{module}.weight").removesuffix(".weight")


@pytest.mark.parametrize("dtype", ["keep", pytest.param("bfloat16", marks=SLOW)])
def test_merged_logits_are_those_of_peft_s_own_merge(tmp_path, base, dtype):
    peft_adapter(base, tmp_path / "a")
    convert(base, tmp_path / "merged", to="hf", dtype=dtype, options=Options(adapter=tmp_path / "a"))
    wanted = peft.PeftModel.from_pretrained(load(base), tmp_path / "a").merge_and_unload()
    merged = load(tmp_path / "merged")
    for (name, found), theirs in zip(merged.state_dict().items(), wanted.state_dict().values(), strict=True):
        exact = theirs.to(found.dtype).float().numpy()
        ulp = 2.0**-7 if dtype == "bfloat16" else 2.0**-22  # one place in the last; sums of four products may differ by it
        np.testing.assert_allclose(found.float().numpy(), exact, rtol=ulp, atol=1e-6, err_msg=name)
    if dtype == "keep":
        np.testing.assert_allclose(logits_of(merged), logits_of(wanted.eval()), **CLOSE)


REFUSED = {
    "dora": ({"use_dora": True}, "use_dora: is True.*DoRA"),
    "bias": ({"bias": "all"}, "bias: is 'all'.*trained biases"),
    "modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save.*whole trained modules"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights: is 'pissa'"),
    "rows": ({"trainable_token_indices": [1]}, "trainable_token_indices.*embedding rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_peft_can_and_we_cannot_is_refused_with_the_reason(tmp_path, base, case):
    settings, words = REFUSED[case]
    peft_adapter(base, tmp_path / "a", **settings)
    assert (tmp_path / "a" / WEIGHTS_FILE).is_file()
    with pytest.raises(CheckpointError, match=words):
        read_adapter(tmp_path / "a")


def test_an_embedding_s_adapter_is_refused(tmp_path, base):
    peft_adapter(base, tmp_path / "a", target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(CodeLlamaError, match="lora_embedding_A: belongs to no linear layer of a Llama"):
        read_adapter(tmp_path / "a")


def test_a_name_is_used_once(tmp_path, graph_mode, base):
    peft_adapter(base, tmp_path / "a")
    model = LlamaForCausalLM.from_pretrained(base)
    model.load_adapter(tmp_path / "a", "code")
    with pytest.raises(ConfigError, match="adapter code: is the name of an adapter already"):
        model.load_adapter(tmp_path / "a", "code")
    with pytest.raises(ConfigError, match="adapter base: stands for the model without"):
        model.load_adapter(tmp_path / "a", "base")
    with pytest.raises(ConfigError, match="adapter cod: is not loaded. Fix: did you mean code"):
        model.set_adapter("cod")
