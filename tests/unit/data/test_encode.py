"""Rows of conversations and wiki text against the contract's rules and against rows the real MindFormers tokenizer made."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.data.conversation import Conversation, to_conversation
from mindformers_codellama.data.encode import IGNORE, encode_conversation, encode_document, encode_paragraph
from mindformers_codellama.data.rows import StreamCutter, padded_row
from mindformers_codellama.data.template import open_template, template_names
from mindformers_codellama.data.wikitext import clean, paragraphs
from mindformers_codellama.errors import DataError
from mindformers_codellama.text.auto import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from oracle_rows import conversation_text, qa_row

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "data_rows.json").read_text())
VICUNA = open_template("vicuna_v1.1")


@pytest.fixture(scope="module")
def tokenizer():
    opened = AutoTokenizer.from_pretrained("codellama_tiny")
    assert opened.sha256 == GOLDEN["tokenizer_sha256"], "the shipped tokenizer changed: run tests/golden/make_data_rows.py"
    return opened


@pytest.fixture(scope="module")
def plain(tokenizer):
    """bos + SentencePiece + eos, without the package's tokenizer."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    return lambda text: [1, *processor.encode(text), 2]


def our_row(messages, tokenizer, row_length, template=VICUNA):
    record = {"conversations": [{"from": role, "value": text} for role, text in messages]}
    sample = encode_conversation(to_conversation(record, "sharegpt"), template, tokenizer, row_length=row_length)
    row = padded_row(sample, row_length)
    assert row["input_ids"].dtype == row["labels"].dtype == np.int32
    return row["input_ids"].tolist(), row["labels"].tolist(), sample


@pytest.mark.parametrize("case", GOLDEN["qa"], ids=range(len(GOLDEN["qa"])))
def test_qa_rows_equal_the_golden_ones(case, tokenizer):
    messages = [(message["from"], message["value"]) for message in case["conversations"]]
    ids, labels, _ = our_row(messages, tokenizer, len(case["input_ids"]))
    assert (ids, labels) == (case["input_ids"], case["labels"])


def test_wiki_rows_equal_the_golden_ones_in_pieces_of_any_size(tokenizer):
    text, rows = GOLDEN["wiki"]["text"], GOLDEN["wiki"]["rows"]
    for size in (1, 7, 1000):
        pieces = (text[at : at + size] for at in range(0, len(text), size))
        arrays = [encode_paragraph(part, tokenizer) for part in paragraphs(clean(pieces))]
        made = StreamCutter(len(rows[0])).cut(arrays * 2)
        assert [row["input_ids"].tolist() for row in made] == rows


def test_an_unknown_token_spelled_in_wiki_text_is_id_0_as_in_mindformers():
    assert any(0 in row for row in GOLDEN["wiki"]["rows"])


words = st.text(alphabet="ab .,\n\t:;()=\u00e9\u4f60\U0001f600ASITN1", max_size=30).filter(lambda text: " ASSISTANT: " not in text)
asked = words.filter(str.strip)
answered = words.filter(bool)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(asked, answered), min_size=1, max_size=3), st.integers(60, 200))
def test_qa_rows_equal_the_contracts_rules_on_any_text(tokenizer, plain, turns, row_length):
    messages = [pair for question, answer in turns for pair in (("human", question), ("gpt", answer))]
    expected = qa_row([{"from": role, "value": text} for role, text in messages], plain, row_length)
    ids, labels, _ = our_row(messages, tokenizer, row_length)
    assert ids == expected[0]
    if any(label != IGNORE for label in expected[1]):  # else MindFormers lost the row, or the answer was cut away
        assert labels == expected[1]


def test_the_comparison_with_the_contract_can_fail(tokenizer, plain):
    """A mask one token short, the error the rule `tokens - 3` is there for, is seen."""
    messages = [("human", "question"), ("gpt", "answer")]
    ids, labels, _ = our_row(messages, tokenizer, 120)
    shifted = [
        ids[i] if label == IGNORE and labels[i + 1 : i + 2] == [ids[i + 1]] else label for i, label in enumerate(labels[:-1])
    ] + labels[-1:]
    expected = qa_row([{"from": role, "value": text} for role, text in messages], plain, 120)[1]
    assert labels == expected
    assert shifted != expected


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("say it", "The mark is ASSISTANT: and then text"),
        ("say it", "end with </s> here"),
        ("what is <unk>?", "unknown"),
        ("<s>", "a </s> b </s> c"),
    ],
)
def test_a_conversation_mindformers_masks_wholly_keeps_its_answer(tokenizer, question, answer):
    def hf(text):
        return [1, *tokenizer.encode(text, add_special_tokens=False), 2]

    lost = qa_row([{"from": "human", "value": question}, {"from": "gpt", "value": answer}], hf, 200)[1]
    assert all(label == IGNORE for label in lost), "the case must be one MindFormers loses"
    ids, labels, sample = our_row([("human", question), ("gpt", answer)], tokenizer, 200)
    learned = [label for label in labels if label != IGNORE]
    assert learned[-1] == 2
    assert learned.count(2) == 1, "a spelled </s> is text, not the end"
    assert tokenizer.decode_pieces(learned[:-1]).strip() == answer
    assert sample.learns


def test_special_spellings_are_noted(tokenizer):
    assert our_row([("human", "a"), ("gpt", "<s>")], tokenizer, 200)[2].special_spelling
    assert not our_row([("human", "a"), ("gpt", "b")], tokenizer, 200)[2].special_spelling


def test_only_answers_and_their_ends_are_learned_in_every_round(tokenizer):
    _, labels, _ = our_row([("human", "one"), ("gpt", "first"), ("human", "two"), ("gpt", "second")], tokenizer, 200)
    learned = [label for label in labels if label != IGNORE]
    parts = " ".join(map(str, learned)).split(" 2")
    texts = [tokenizer.decode([int(i) for i in part.split()]).strip() for part in parts if part.strip()]
    assert texts == ["first", "second"]


def test_a_cut_answer_is_truncated_and_one_cut_away_leaves_no_label(tokenizer):
    length = len(encode_conversation(Conversation((("q", "answer " * 9),)), VICUNA, tokenizer, row_length=999).ids)
    assert not our_row([("human", "q"), ("gpt", "answer " * 9)], tokenizer, length)[2].truncated
    cut = our_row([("human", "q"), ("gpt", "answer " * 9)], tokenizer, length - 1)[2]
    assert cut.truncated
    assert cut.learns
    assert not our_row([("human", "q"), ("gpt", "answer " * 9)], tokenizer, 20)[2].learns


def test_an_empty_answer_leaves_nothing_to_learn_in_its_round(tokenizer):
    assert not our_row([("human", "q"), ("gpt", "")], tokenizer, 200)[2].learns


TURNS = (("hello\n", "hi"), (" and: ", "bye "))


@pytest.fixture
def without_fastchat(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastchat", None)
    monkeypatch.setitem(sys.modules, "fastchat.conversation", None)


def test_the_vicuna_text_is_the_contracts(without_fastchat):
    messages = [{"from": role, "value": text} for turn in TURNS for role, text in zip(("human", "gpt"), turn, strict=True)]
    ours = "".join(f"{part.prompt}{part.answer}</s>" for part in open_template("vicuna_v1.1").rounds(Conversation(TURNS)))
    assert ours == conversation_text(messages)


def test_the_built_in_and_the_installed_templates_write_what_fastchat_writes():
    fastchat = pytest.importorskip("fastchat.conversation", reason="needs the [templates] extra")
    names = [name for name in template_names() if name != "llama2"]
    assert {"vicuna_v1.1", "alpaca"} <= set(names)
    for name in names:
        conv = fastchat.get_conv_template(name)
        for question, answer in TURNS:
            conv.append_message(conv.roles[0], question)
            conv.append_message(conv.roles[1], answer)
        assert "".join(f"{part.prompt}{part.answer}</s>" for part in open_template(name).rounds(Conversation(TURNS))) == conv.get_prompt()


def test_templates_that_are_not_built_in_ask_for_fastchat(without_fastchat):
    assert template_names() == ("vicuna_v1.1", "llama2")
    with pytest.raises(
        DataError, match=r"'alpaca' is not built in.*FastChat.*not installed.*pip install \"mindformers_codellama\[templates\]\""
    ):
        open_template("alpaca")


def test_a_records_system_text_replaces_the_templates():
    part = VICUNA.rounds(Conversation((("q", "a"),), system="Be short."))[0]
    assert part.prompt == "Be short. USER: q ASSISTANT:"


def test_the_instruct_template_begins_every_round_with_bos(tokenizer):
    ids, labels, _ = our_row([("human", "one"), ("gpt", "1"), ("human", "two"), ("gpt", "2")], tokenizer, 120, open_template("llama2"))
    assert ids.count(1) == ids.count(2) == 2
    expected = [
        *tokenizer.encode_pieces("[INST] one [/INST] 1 ", bos=True, eos=True),
        *tokenizer.encode_pieces("[INST] two [/INST] 2 ", bos=True, eos=True),
    ]
    assert ids[: len(expected)] == expected
    assert labels[: len(tokenizer.encode_pieces("[INST] one [/INST]", bos=True, eos=False))][-1] == IGNORE


def test_an_unknown_template_is_refused_with_the_known_ones():
    pytest.importorskip("fastchat.conversation", reason="needs the [templates] extra")
    with pytest.raises(DataError, match=r"template: 'vicuna' is not known. Fix: write one of .*vicuna_v1.1.*llama2"):
        open_template("vicuna")
    assert "chatml" not in template_names()


def test_blocks_of_a_document_have_the_ids_of_the_whole(tokenizer):
    text = "def f(x):\n    return x\n\n# caf\u00e9 \U0001f600\nprint(f(1))\n"
    whole = encode_document(text, tokenizer).tolist()
    assert whole[0] == 1
    assert whole[-1] == 2
    for at in (i for i, letter in enumerate(text) if letter == "\n" and i):
        parts = [encode_document(text[:at], tokenizer, last=False), encode_document(text[at:], tokenizer, first=False)]
        assert np.concatenate(parts).tolist() == whole
