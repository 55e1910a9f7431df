"""Infilling prompts against the published vector and against Meta's rules over sentencepiece alone."""

import random
import sys
from dataclasses import replace

import pytest
import sentencepiece
from infilling_models import MARKS, MetaRules, code_llama_file, opened, with_marks_matched_in_text, without_implicit_space

from mindformers_codellama import infilling_prompt_ids
from mindformers_codellama.config.families import FAMILIES, model_facts
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import GenerationError, TokenizerError
from mindformers_codellama.text.infilling import models_that_infill, order_of_model, prefers_suffix_first, require_infilling
from mindformers_codellama.text.special import AddedToken
from mindformers_codellama.text.tokenizer import LlamaTokenizer

# llama.cpp issue 3503: what Meta's code gives for Code Llama 7B
GOLDEN_PREFIX = 'def remove_non_ascii(s: str) -> str:\n    """ '
GOLDEN_SUFFIX = "\n    return result\n"
GOLDEN = (
    "1 32007 822 3349 29918 5464 29918 294 18869 29898 29879 29901 851 29897 1599 851 29901 13 1678 9995 29871 "
    "32008 13 1678 736 1121 13 32009"
)
BRICKS = [
    *(
        "def f(x):\n",
        "    ",
        "\t",
        "return x",
        "\r\n",
        "\n",
        " ",
        "  ",
        "if a == 'b':",
        "# caf\u00e9 \u6f22\u5b57",
        "\U0001f600",
        "e\u0301",
    ),
    *("<PRE>", " <MID>", "<s>", "</s>", "[INST]", "\u00a0", "\x00", "\ufeff", "1234", "x_y", '"""', "\r", "\u263a", "();"),
]


@pytest.fixture(scope="module")
def code_llama(shared_model, tmp_path_factory) -> LlamaTokenizer:
    return opened(tmp_path_factory.mktemp("code"), code_llama_file(shared_model.read_bytes()))


def documents(count: int) -> list[tuple[str, str]]:
    """Random prefixes and suffixes; the first ones have an empty part or none at all."""
    chance = random.Random(20)
    texts = ["".join(chance.choices(BRICKS, k=chance.randrange(1, 14))) for _ in range(2 * count)]
    return [("", ""), ("", "x\n"), ("x", ""), ("a\r\n", "\r\nb"), *zip(texts[:count], texts[count:], strict=True)]


def test_the_published_prompt_of_code_llama_is_met(code_llama):
    assert infilling_prompt_ids(code_llama, GOLDEN_PREFIX, GOLDEN_SUFFIX) == [int(token) for token in GOLDEN.split()]


def test_marks_may_be_added_tokens_of_a_configuration(shared_model):
    """As Hugging Face's `added_tokens.json` states them."""
    marks = [AddedToken(mark, 32007 + place) for place, mark in enumerate(MARKS)]
    tokenizer = LlamaTokenizer(shared_model, added_tokens=marks)
    assert infilling_prompt_ids(tokenizer, GOLDEN_PREFIX, GOLDEN_SUFFIX) == [int(token) for token in GOLDEN.split()]
    assert tokenizer.eot_id == 32010


@pytest.mark.parametrize("suffix_first", [False, True])
@pytest.mark.parametrize("which", ["tiny", "code_llama"])
def test_250_documents_give_the_ids_of_metas_rules(request, which, suffix_first):
    tokenizer = request.getfixturevalue(which)
    rules = MetaRules(tokenizer.path)
    for prefix, suffix in documents(250):
        if prefix.endswith("\r") and suffix.startswith("\n"):
            continue  # a line end the cursor stands in; it has a test of its own
        found = infilling_prompt_ids(tokenizer, prefix, suffix, suffix_first=suffix_first)
        assert found == rules.prompt(prefix.replace("\r\n", "\n"), suffix.replace("\r\n", "\n"), suffix_first)


def test_suffixes_are_what_sentencepiece_gives_without_its_implicit_space(code_llama, tmp_path):
    """A derivation without Meta's trick of a mark that is cut off again: the same file, its implicit space turned off."""
    plain = opened(tmp_path, without_implicit_space(code_llama.path.read_bytes()))
    without = sentencepiece.SentencePieceProcessor(model_file=str(plain.path))
    assert without.encode("x") != sentencepiece.SentencePieceProcessor(model_file=str(code_llama.path)).encode("x")
    for text in {part for pair in documents(250) for part in pair}:
        ids = without.encode(text)
        assert code_llama.encode_infilling(text) == ids
        assert code_llama.decode_infilling(ids) == text


def test_the_suffix_has_no_implicit_space_and_the_prefix_has(tiny):
    psm = infilling_prompt_ids(tiny, "x", "x")
    place = psm.index(tiny.suffix_id)
    assert psm[2:place] == [tiny.convert_tokens_to_ids("\u2581x")]
    assert psm[place + 1 : -1] == [tiny.convert_tokens_to_ids("x")]


def test_a_cursor_inside_cr_lf_stands_before_it(tiny):
    assert infilling_prompt_ids(tiny, "a\r", "\nb") == infilling_prompt_ids(tiny, "a", "\nb")
    assert infilling_prompt_ids(tiny, "a\r", "b") != infilling_prompt_ids(tiny, "a", "b"), "a lone CR is text"


def test_a_file_without_implicit_space_loses_no_token_of_the_suffix(tiny, tmp_path):
    """Meta's code cuts two pieces off, of which one would be the suffix's own here."""
    plain = opened(tmp_path, without_implicit_space(tiny.path.read_bytes()))
    assert plain.encode_infilling("x = 1") == tiny.encode_infilling("x = 1")
    assert plain.encode_pieces("x", bos=False, eos=False) == tiny.encode_infilling("x")


def test_text_that_spells_a_mark_never_becomes_the_mark(tiny, tmp_path):
    matching = opened(tmp_path, with_marks_matched_in_text(tiny.path.read_bytes()))
    marks = {matching.prefix_id, matching.suffix_id, matching.middle_id, matching.eot_id}
    text = "a <PRE> b <SUF> c <MID> d <EOT>"
    rules = MetaRules(matching.path)
    assert marks <= set(rules.sp.encode(text)), "the file does find its marks in text"
    for suffix_first in (False, True):
        ids = infilling_prompt_ids(matching, text, text, suffix_first=suffix_first)
        assert [token for token in ids if token in marks] == [token for token in rules.prompt("", "", suffix_first) if token in marks]
    assert matching.decode_infilling(matching.encode_infilling(text)) == text
    assert matching.decode_pieces(matching.encode_pieces(text, bos=True, eos=False)) == text


def test_the_order_follows_the_cursor():
    assert prefers_suffix_first("def f():\n    ", "\n")
    assert prefers_suffix_first("x = (", "  \nrest")
    assert prefers_suffix_first("x = ", "")
    assert prefers_suffix_first("def f():\n", "    return 1\n"), "before a line that is there, as in the paper's tasks of whole lines"
    assert prefers_suffix_first("def f():\n    ", "return 1\n")
    assert prefers_suffix_first("", "import os\n")
    assert not prefers_suffix_first("impor", "\n"), "inside a word"
    assert not prefers_suffix_first("f(", ")\n"), "inside a line"


def test_a_model_has_an_order_of_its_own_only_where_one_was_measured():
    demo = model_facts("codellama_demo").config
    assert order_of_model(demo) is order_of_model(demo, "codellama_demo_instruct") is True
    assert all(order_of_model(model_facts(name).config, name) is None for name in models_that_infill())
    assert order_of_model(replace(demo, hidden_size=512)) is None


@pytest.mark.parametrize("name", sorted(name for name, facts in FAMILIES.items() if not facts.can_infill))
def test_models_that_cannot_infill_are_refused_with_those_that_can(name, code_llama):
    config = model_facts(name).config
    for given in (name, ""):  # without a name the sizes tell it
        with pytest.raises(
            GenerationError, match=r"not trained to fill in the middle.* Fix: models that can infill: codellama_7b, "
        ) as refused:
            require_infilling(code_llama, config, given)
        assert name in refused.value.where


@pytest.mark.parametrize("name", models_that_infill())
def test_models_that_can_infill_are_taken_with_and_without_their_name(name, code_llama):
    for given in (name, ""):
        require_infilling(code_llama, model_facts(name).config, given)


def test_a_tokenizer_without_the_marks_is_refused_and_so_is_a_model_without_their_rows(shared_model, tiny):
    with pytest.raises(GenerationError, match="has no infilling pieces"):
        infilling_prompt_ids(LlamaTokenizer(shared_model), "a", "b")
    small = ModelConfig(vocab_size=2000, hidden_size=8, num_layers=1, num_heads=1, num_kv_heads=1, intermediate_size=8)
    with pytest.raises(GenerationError, match="infilling piece 2047 of .* is outside the model's vocabulary of 2000"):
        require_infilling(tiny, small)


def test_what_is_no_text_is_refused(tiny):
    with pytest.raises(TokenizerError, match="lone surrogate"):
        infilling_prompt_ids(tiny, "a\ud800", "b")
    with pytest.raises(TokenizerError, match="suffix: must be a text, got NoneType"):
        infilling_prompt_ids(tiny, "a", None)


def test_no_mindspore_is_imported_for_prompts():
    import subprocess

    code = (
        "import sys; from mindformers_codellama import AutoTokenizer, chat_prompt_ids, infilling_prompt_ids;"
        "t = AutoTokenizer.from_pretrained('codellama_tiny'); infilling_prompt_ids(t, 'a', 'b');"
        "chat_prompt_ids(t, [{'role': 'user', 'content': 'a'}], style='llama2'); sys.exit('mindspore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
