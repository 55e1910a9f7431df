"""`LlamaTokenizer` against the recorded answers of transformers 4.57.1's slow tokenizer (tests/golden/make_tokenizer_golden.py)."""

import hashlib
import json
from pathlib import Path

import pytest

from mindformers_codellama.text.auto import shipped_tokenizer
from mindformers_codellama.text.special import AddedToken
from mindformers_codellama.text.tokenizer import LlamaTokenizer

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIGS = ["legacy", "new", "legacy_eos", "legacy_added", "new_added"]


def load(name: str, model: Path) -> dict:
    golden = json.loads((GOLDEN / name).read_text(encoding="ascii"))
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    assert golden["model_sha256"] == sha256, "the golden file was recorded with another tokenizer.model; run its generator again"
    return golden


@pytest.fixture(scope="module", params=["tiny", "llama2"])
def recorded(request) -> tuple[dict, Path]:
    if request.param == "tiny":
        path = shipped_tokenizer() / "tokenizer.model"
        return load("tokenizer_golden.json", path), path
    path = request.getfixturevalue("shared_model")
    return load("tokenizer_golden_llama2.json", path), path


def build(model: Path, options: dict) -> LlamaTokenizer:
    options = dict(options)
    added = tuple(AddedToken(content) for content in options.pop("additional_special_tokens", ()))
    return LlamaTokenizer(model, added_tokens=added, **options)


@pytest.mark.parametrize("name", CONFIGS)
def test_ids_and_texts_equal_those_of_the_slow_tokenizer(recorded, name):
    golden, model = recorded
    tokenizer, case = build(model, golden["configs"][name]), golden["cases"][name]
    assert len(tokenizer) == case["length"]
    assert dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)) == case["special_ids"]
    for text, ids, bare, shown, skipped in zip(
        golden["texts"], case["encode"], case["encode_bare"], case["decode"], case["decode_skip"], strict=True
    ):
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.encode(text, add_special_tokens=False) == bare, repr(text)
        assert tokenizer.decode(ids) == shown, ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == skipped, ids
    assert tokenizer.batch_decode(case["ids"]) == case["ids_decode"]
    assert tokenizer.batch_decode(case["ids"], skip_special_tokens=True) == case["ids_decode_skip"]


@pytest.mark.parametrize("name", CONFIGS)
def test_batches_equal_those_of_the_slow_tokenizer(recorded, name):
    golden, model = recorded
    tokenizer, case = build(model, golden["configs"][name]), golden["cases"][name]
    for options, expected in zip(golden["call_options"], case["calls"], strict=True):
        tokenizer.padding_side = options.get("padding_side", "right")
        assert tokenizer(golden["batch"], **{k: v for k, v in options.items() if k != "padding_side"}) == expected, options


@pytest.mark.parametrize(
    ("name", "change"), [("legacy", {"legacy": False}), ("new", {"legacy": True}), ("new", {"add_prefix_space": False})]
)
def test_the_comparison_sees_a_wrong_setting(name, change):
    path = shipped_tokenizer() / "tokenizer.model"
    golden = load("tokenizer_golden.json", path)
    tokenizer, case = build(path, golden["configs"][name] | change), golden["cases"][name]
    assert [tokenizer.encode(text) for text in golden["texts"]] != case["encode"]
    assert tokenizer.batch_decode(case["ids"]) != case["ids_decode"]
