"""An adapter in weights that are packed at load. The oracle is `codellama merge-lora` into files (compared with float64 in
test_adapter_files), packed by the same command afterwards: every byte is to be the same."""

import shutil

import numpy as np
import pytest
from kernels_case import needs_kernels

from mindformers_codellama import demo
from mindformers_codellama.checkpoint import packed_write
from mindformers_codellama.checkpoint.adapter_config import AdapterConfig
from mindformers_codellama.checkpoint.adapter_format import LowRank, read_adapter, write_adapter
from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.convert import Options, convert
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.tensors import ComputedTensor
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes
from mindformers_codellama.cli.main import main
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.pipelines.causal_lm import LlamaForCausalLM
from mindformers_codellama.pipelines.open_model import find_source, open_model
from mindformers_codellama.pipelines.packed_lm import PackedCausalLM
from mindformers_codellama.pipelines.weight_form import merged_reader, packed_from
from mindformers_codellama.text.auto import AutoTokenizer, shipped_tokenizer

RANK = 3


pytestmark = pytest.mark.usefixtures("nothing_chosen")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A base of two types, an adapter on matrices of every kind and the head, and what merge-lora makes of them."""
    where = tmp_path_factory.mktemp("packed_adapter")
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 48, "seq_length": 64}
    config = ModelConfig(vocab_size=AutoTokenizer.from_pretrained("codellama_tiny").vocab_size, **sizes)
    shapes = expected_shapes(Sizes.of(config))
    rng = np.random.default_rng(5)
    weights = {name: rng.standard_normal(shape, np.float32) * (0.3 if len(shape) == 2 else 1) for name, shape in shapes.items()}
    write_ckpt(where / "base.ckpt", weights.items())
    pairs = {
        name: LowRank(rng.standard_normal((RANK, shape[1]), np.float32) * 0.2, rng.standard_normal((shape[0], RANK), np.float32) * 0.2, 2.0)
        for name, shape in shapes.items()
        if len(shape) == 2 and "embedding" not in name and "w3" not in name
    }
    for name, chosen in (("polite", pairs), ("terse", dict(list(pairs.items())[:1]))):
        write_adapter(where / name, AdapterConfig(rank=RANK, alpha=2 * RANK), chosen)
    for dtype in ("float32", "bfloat16"):
        for name, adapter in ((f"base-{dtype}", None), (f"merged-{dtype}", where / "polite")):
            source = where / ("base.ckpt" if adapter is None else f"base-{dtype}")
            options = Options(adapter=adapter, tokenizer=shipped_tokenizer())
            convert(source, where / name, to="hf", dtype=dtype if adapter is None else "keep", config=config, options=options)
    return where


def same_bytes(found, wanted) -> bool:
    assert found.keys() == wanted.keys()
    return all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


@needs_kernels
@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_bytes_are_those_of_merging_into_files_and_packing_that(places, dtype, form):
    found = LlamaForCausalLM.from_pretrained(places / f"base-{dtype}", weights=form, adapter=places / "polite")
    wanted = LlamaForCausalLM.from_pretrained(places / f"merged-{dtype}", weights=form)
    without = LlamaForCausalLM.from_pretrained(places / f"base-{dtype}", weights=form)
    assert isinstance(found, PackedCausalLM)
    assert same_bytes(found.weights.arrays, wanted.weights.arrays)
    assert not same_bytes(without.weights.arrays, wanted.weights.arrays)
    assert (found.adapters, found.active_adapter) == (("polite",), "polite")
    assert (without.adapters, without.active_adapter) == ((), None)


@needs_kernels
def test_logits_are_those_of_the_merged_model_exactly(places):
    tokens, lengths = np.arange(3, 11, dtype=np.int32)[None], np.array([8], np.int32)
    found, wanted = (
        LlamaForCausalLM.from_pretrained(places / name, weights="int8", **more).decoder(use_past=True).prefill(tokens, lengths)
        for name, more in (("base-bfloat16", {"adapter": places / "polite"}), ("merged-bfloat16", {}))
    )
    assert np.array_equal(found, wanted)


def test_without_kernels_the_values_are_the_same_too(places, monkeypatch):
    monkeypatch.setenv("CODELLAMA_KERNELS", "off")
    found = open_model(places / "base-bfloat16", weights="int4", adapters=[str(places / "polite")]).model
    wanted = open_model(places / "merged-bfloat16", weights="int4").model
    values = [{name: one.asnumpy() for name, one in model.parameters_and_names()} for model in (found, wanted)]
    assert same_bytes(*values)
    assert found.active_adapter == "polite"
    with pytest.raises(ConfigError, match="packed as int4 with adapter polite merged into them; adapters of packed weights cannot"):
        found.set_adapter(None)


def test_rows_of_a_weight_are_packed_in_blocks_and_the_weight_is_merged_once(places, monkeypatch):
    source, config = open_checkpoint(places / "base-bfloat16"), find_source(places / "base-bfloat16").config
    whole = packed_from(merged_reader(source, config, read_adapter(places / "polite")), config, "int8")
    monkeypatch.setattr(packed_write, "BLOCK_BYTES", 16 * 4 * 32)
    made, make = [], ComputedTensor.read
    monkeypatch.setattr(ComputedTensor, "read", lambda tensor: made.append(tensor) or make(tensor))
    blocks = packed_from(merged_reader(source, config, read_adapter(places / "polite")), config, "int8")
    assert same_bytes(blocks.arrays, whole.arrays)
    assert len(made) == len(read_adapter(places / "polite").weights)


@needs_kernels
def test_the_adapter_of_packed_weights_cannot_be_switched(places):
    model = LlamaForCausalLM.from_pretrained(places / "base-float32", weights="int8", adapter=places / "polite")
    model.set_adapter("polite")
    for call, told in (
        (lambda: model.set_adapter(None), r"adapter base: the weights are packed as int8 with adapter polite merged into them"),
        (lambda: model.set_adapter("terse"), r"adapter terse: .*cannot be switched\. Fix: to switch between adapters, .*--weights auto"),
        (lambda: model.load_adapter(places / "terse"), r"adapter terse: .*before they are packed.* Fix: name one when .*--adapter DIR"),
    ):
        with pytest.raises(ConfigError, match=told):
            call()
    assert (model.adapters, model.active_adapter) == (("polite",), "polite")


def refused(capsys, *words):
    capsys.readouterr()
    code = main(list(map(str, words)))
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    return code, err


def test_what_cannot_be_merged_is_refused_with_the_way_out(places, tmp_path, capsys):
    base, polite, terse = places / "base-bfloat16", places / "polite", places / "terse"
    code, told = refused(capsys, "chat", base, "--weights", "int8", "--adapter", polite, "--adapter", f"short={terse}")
    assert code == 2
    assert "got 2 (polite, short), but into weights packed as int8 one is merged" in told
    assert "Fix: give one; to switch between adapters, open it with weights: auto (--weights auto)." in told
    assert main(["quantize", str(base), str(tmp_path / "w8"), "--scheme", "w8"]) == 0
    code, told = refused(capsys, "predict", tmp_path / "w8", "x", "--adapter", polite)
    assert code == 2
    assert "w8 is packed as int8 already; an adapter is merged into weights before they are packed" in told
    assert "give the original checkpoint (base-bfloat16), weights: int8 (--weights int8) and the adapter" in told
    code, told = refused(capsys, "predict", base, "x", "--weights", "int8", "--adapter", places / "nowhere")
    assert code == 3
    assert "nowhere: does not exist" in told


@needs_kernels
def test_the_shipped_name_with_an_adapter_of_its_own_goes_the_same_way(places, tmp_path, monkeypatch):
    shutil.copytree(places / "base-bfloat16", tmp_path / demo.DEMO)
    shutil.copytree(places / "polite", tmp_path / demo.DEMO_INSTRUCT)
    monkeypatch.setattr(demo, "ASSETS", tmp_path)
    wanted = LlamaForCausalLM.from_pretrained(places / "merged-bfloat16", weights="int8").weights.arrays
    opened = open_model(demo.DEMO_INSTRUCT, weights="int8")
    assert same_bytes(opened.model.weights.arrays, wanted)
    assert opened.model.active_adapter == demo.DEMO_INSTRUCT
    assert opened.adapters == (str(tmp_path / demo.DEMO_INSTRUCT),)
    assert same_bytes(LlamaForCausalLM.from_pretrained(demo.DEMO_INSTRUCT, weights="int8").weights.arrays, wanted)
    with pytest.raises(ConfigError, match=r"got 2 \(terse, codellama_demo_instruct\)"):
        open_model(demo.DEMO_INSTRUCT, weights="int8", adapters=[str(places / "terse")])
    network = open_model(demo.DEMO_INSTRUCT, adapters=[str(places / "terse")]).model
    assert (network.adapters, network.active_adapter) == (("terse", demo.DEMO_INSTRUCT), "terse")
