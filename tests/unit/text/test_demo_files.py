"""The model that is shipped: its files are there, small, and of one piece."""

import hashlib
import json
import re

import pytest

from mindformers_codellama.config.families import model_facts
from mindformers_codellama.demo import ASSETS, DEMO, DEMO_INSTRUCT, shipped_model
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.infilling import infilling_pieces

FOLDER, _ = shipped_model(DEMO)


def test_names_are_known_in_both_spellings_and_others_are_not():
    assert shipped_model("codellama-demo") == (ASSETS / "codellama_demo", None)
    assert shipped_model(DEMO_INSTRUCT) == (ASSETS / "codellama_demo", ASSETS / "codellama_demo_instruct")
    assert shipped_model("codellama_tiny") is None


def test_all_files_together_take_at_most_twelve_megabytes():
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 12_000_000


def test_the_header_of_the_weights_has_bfloat16_and_the_registrys_shapes():
    with (FOLDER / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}
    config = model_facts(DEMO).config
    assert header["model.embed_tokens.weight"]["shape"] == [config.vocab_size, config.hidden_size]
    assert len([name for name in header if name.endswith("q_proj.weight")]) == config.num_layers


@pytest.mark.parametrize("name", [DEMO, "codellama-demo", DEMO_INSTRUCT])
def test_the_tokenizer_comes_by_name_and_has_the_infilling_pieces(name):
    tokenizer = AutoTokenizer.from_pretrained(name)
    assert tokenizer.vocab_size == model_facts(DEMO).config.vocab_size
    assert sorted(infilling_pieces(tokenizer)) == [4092, 4093, 4094, 4095]
    text = "def f(x):\n\treturn x  # é"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_card_names_the_files_it_describes():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("model.safetensors", "tokenizer.model"):
        digest = hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
        assert re.search(rf"`{name}`[^\n]*{digest}", card), name
