"""`--weights` and packed directories for predict, chat, evaluate; transformers is the oracle of float32."""

import io
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from generation_case import NEW, PROMPTS
from kernels_case import needs_kernels

import mindformers_codellama
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.packed_manifest import read_packed_manifest
from mindformers_codellama.cli.main import main
from mindformers_codellama.pipelines.causal_lm import LlamaForCausalLM
from mindformers_codellama.pipelines.packed_lm import PackedCausalLM

pytestmark = pytest.mark.usefixtures("nothing_chosen")


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    def make(scheme):
        target = where / scheme
        if not target.exists():
            assert main(["quantize", str(folder), str(target), "--scheme", scheme]) == 0
        return target

    where = tmp_path_factory.mktemp("packed")
    return make


def texts(capsys, *words):
    capsys.readouterr()
    assert main([*words, *PROMPTS, "--no-stream", "--json", "--max-new-tokens", str(NEW)]) == 0
    return [json.loads(line)["text_generation_text"][0] for line in capsys.readouterr().out.splitlines()]


@needs_kernels
def test_float32_text_is_that_of_transformers_with_the_kernels_and_without(folder, expected, capsys, monkeypatch):
    assert texts(capsys, "predict", str(folder), "--weights", "float32") == expected
    monkeypatch.setenv("CODELLAMA_KERNELS", "off")
    assert texts(capsys, "predict", str(folder), "--weights", "float32") == expected


@needs_kernels
@pytest.mark.parametrize(("scheme", "form"), [("bf16", "bfloat16"), ("w8", "int8"), ("w4", "int4")])
def test_made_at_load_and_ahead_give_the_same_text(folder, packed, capsys, scheme, form):
    at_load = texts(capsys, "predict", str(folder), "--weights", form)
    assert texts(capsys, "predict", str(packed(scheme))) == at_load
    assert texts(capsys, "predict", str(packed(scheme)), "--weights", form) == at_load


@needs_kernels
def test_packed_logits_lie_near_the_float32_ones(folder, packed, tokenizer):
    """One layer of 32: an error of a weight is at most half its scale, 1/254 of the largest weight of its group for int8 and 1/14
    for int4; over sums of many weights the errors average out, so that a tenth and three quarters of the spread hold easily, and
    a transposed, shifted or unscaled matrix (spread 1 and more) does not."""
    reference = LlamaForCausalLM.from_pretrained(folder)
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    width = max(map(len, prompts))
    tokens = np.array([row + [0] * (width - len(row)) for row in prompts], np.int32)
    lengths = np.array([len(row) for row in prompts], np.int32)
    expected = reference.decoder(use_past=True).prefill(tokens, lengths)
    for scheme, bound, agreeing in (("bf16", 0.02, 4), ("w8", 0.1, 4), ("w4", 0.75, 0)):
        model = LlamaForCausalLM.from_pretrained(packed(scheme))
        assert isinstance(model, PackedCausalLM)
        found = model.decoder(use_past=True).prefill(tokens, lengths)
        assert np.sqrt(np.square(found - expected).mean()) < bound * expected.std(), scheme
        assert (found.argmax(1) == expected.argmax(1)).sum() >= agreeing, scheme


@pytest.mark.parametrize("scheme", ["w8", pytest.param("w4", marks=pytest.mark.slow)])
def test_without_kernels_a_float32_network_has_the_same_values_and_one_warning_tells(folder, packed, capsys, monkeypatch, scheme):
    monkeypatch.setenv("CODELLAMA_KERNELS", "off")
    target = packed(scheme)
    texts(capsys, "predict", str(target))
    form = read_packed_manifest(target).form
    first = texts_and_errors(capsys, "predict", str(target))
    second = texts_and_errors(capsys, "predict", str(folder), "--weights", form)
    assert first[0] == second[0]
    for _, err in (first, second):
        assert err.count("need the kernels, which are off or cannot be used") == 1


def texts_and_errors(capsys, *words):
    capsys.readouterr()
    assert main([*words, PROMPTS[0], "--no-stream", "--json", "--max-new-tokens", "4"]) == 0
    out, err = capsys.readouterr()
    return out, err


@needs_kernels
def test_chat_answers_with_packed_weights(packed, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("x = [1, 2\n"))
    assert main(["chat", str(packed("w8")), "--max-new-tokens", "4", "--seq-length", "64"]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert "weights int8" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["predict", "{w4}", "x", "--weights", "int8"], 3, "holds int4 weights, and weights: int8 was asked for"),
        (["predict", "{w4}", "x", "--weights", "float32"], 3, "holds int4 weights, and weights: float32 was asked for"),
        (["predict", "codellama_tiny", "x", "--weights", "int8"], 2, "there are no weights to pack"),
        (["predict", "{yaml}", "x", "--load-checkpoint", "{w4}"], 3, "is a checkpoint of another model size"),
        (["predict", "{yaml}", "x", "--set", "weights=int5"], 2, "weights: got 'int5'"),
        (["convert", "{w4}", "x.ckpt"], 3, "holds int4 weights.* Fix: give the checkpoint it was made from"),
        (["shard", "{w4}", "parts", "--layout", "1x2x1"], 3, "holds int4 weights"),
        (["quantize", "{w4}", "more", "--scheme", "w8"], 3, "holds int4 weights"),
        (["quantize", "{w4}", "{w4}", "--scheme", "w8", "--group-size", "32"], 2, "groups of 32 columns"),
        (["quantize", "{hf}", "more", "--scheme", "w8", "--evaluate", "gone.txt"], 2, "gone.txt does not exist"),
        (["quantize", "nowhere", "more", "--scheme", "w8"], 3, "nowhere: does not exist"),
        (["check", "{train}", "--set", "weights=int8"], 0, "run_mode train needs floating-point weights"),
        (["check", "{yaml}", "--set", "weights=int8", "--set", "context.device_target=Ascend"], 0, "computed by CPU kernels"),
    ],
)
def test_refusals_are_one_line_with_the_fix(folder, packed, capsys, tmp_path, monkeypatch, words, code, message):
    configs = Path(mindformers_codellama.__file__).parents[1] / "configs/codellama"
    places = {"w4": packed("w4"), "hf": folder, "yaml": configs / "predict_codellama_tiny.yaml"}
    places["train"] = configs / "pretrain_codellama_tiny.yaml"
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    found = main([word.format(**places) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    if words[0] == "check":
        assert found == 2
        assert message in out
        return
    assert found == code
    assert re.search(message, err), err
    assert not list(tmp_path.iterdir())


def test_a_packed_model_on_several_ranks_is_refused(folder):
    from mindformers_codellama.parallel.comm import SINGLE
    from mindformers_codellama.pipelines.ranks import Ranks
    from mindformers_codellama.pipelines.weight_form import packed_findings

    class Several:
        is_alone = False
        layout = type("Layout", (), {"ranks": 2})

    assert packed_findings("int8", Ranks(comm=SINGLE)) == []
    (found,) = packed_findings("int8", Ranks(comm=Several()))
    assert "on 2 ranks, but packed weights are not cut over ranks" in str(found)


@needs_kernels
@pytest.mark.slow
def test_quantize_compares_with_float32_and_keeps_the_numbers(folder, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("".join(f"def add_{a}(x):\n    return x + {a}\n" for a in range(40)))
    numbers = {}
    for scheme in ("bf16", "w8", "w4"):
        target = tmp_path / scheme
        words = ["quantize", str(folder), str(target), "--scheme", scheme, "--evaluate", str(tmp_path / "text.txt"), "--verify", "--json"]
        assert main(words) == 0
        report = json.loads(capsys.readouterr().out)
        numbers[scheme] = report["evaluation"]
        assert read_packed_manifest(target).evaluation == report["evaluation"]
        assert set(report["errors"]) == {name for name in open_checkpoint(folder).names() if "norm" not in name}
    assert numbers["w8"]["tokens"] > 300
    assert numbers["w8"]["data"] == "text.txt"
    for fewer, more in pairwise(("w4", "w8", "bf16")):
        assert numbers[fewer]["mean_kl"] > numbers[more]["mean_kl"] > 0
        assert numbers[fewer]["top1_agreement"] <= numbers[more]["top1_agreement"] <= 1
    assert numbers["w8"]["top1_agreement"] > 0.9
    assert numbers["bf16"]["perplexity"] == pytest.approx(numbers["bf16"]["perplexity_float32"], rel=0.01)
