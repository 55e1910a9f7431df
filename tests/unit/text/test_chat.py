from pathlib import Path

import numpy as np
import pytest
import sentencepiece

import mindformers_codellama.text
from mindformers_codellama.data.conversation import Conversation, to_conversation
from mindformers_codellama.data.encode import IGNORE, encode_conversation
from mindformers_codellama.data.template import open_template
from mindformers_codellama.errors import CodeLlamaError, GenerationError
from mindformers_codellama.text.chat import CHAT_STYLES, Message, chat_ids, fitting_chat_ids, style_stop_ids
from mindformers_codellama.text.special import AddedToken
from mindformers_codellama.text.tokenizer import LlamaTokenizer

MODEL = Path(mindformers_codellama.text.__file__).parent / "assets" / "codellama_tiny" / "tokenizer.model"


@pytest.fixture(scope="module")
def tokenizer():
    return LlamaTokenizer(MODEL)


@pytest.fixture(scope="module")
def stepping():
    return LlamaTokenizer(MODEL, added_tokens=[AddedToken("<step>")])


@pytest.fixture(scope="module")
def pieces():
    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL)).encode


def says(*contents: str, system: str | None = None) -> list[Message]:
    turns = [Message(("user", "assistant")[place % 2], text) for place, text in enumerate(contents)]
    return turns if system is None else [Message("system", system), *turns]


def test_llama2_turns_are_encoded_one_by_one_with_begin_and_end(tokenizer, pieces):
    ids = chat_ids(tokenizer, says(" add two ", "a + b\n", "and three?", system="Be brief."), "llama2")
    first = pieces("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n add two [/INST] a + b ")
    assert ids == [1, *first, 2, 1, *pieces("[INST] and three? [/INST]")]


def test_encoding_llama2_turns_as_one_text_would_give_other_ids(tokenizer, pieces):
    ids = chat_ids(tokenizer, says("a", "b", "c"), "llama2")
    joined = pieces("[INST] a [/INST] b [INST] c [/INST]")
    assert [token for token in ids if token > 2] != joined


def test_70b_messages_have_header_body_and_step_encoded_apart(stepping, pieces):
    step = stepping.convert_tokens_to_ids("<step>")
    assert step == 2048
    ids = chat_ids(stepping, says(" add two ", "a + b", "more"), "codellama-70b")
    expected = [1, *pieces(" Source: system"), step]
    for role, text in (("user", "add two"), ("assistant", "a + b"), ("user", "more")):
        expected += [*pieces(f" Source: {role}"), *pieces(f"\n\n {text}"), step]
    assert ids == [*expected, *pieces(" Source: assistant\nDestination: user"), *pieces("\n\n ")]
    assert style_stop_ids(stepping, "codellama-70b") == (step, 2)


def test_70b_with_a_system_text_has_its_body(stepping, pieces):
    ids = chat_ids(stepping, says("q", system="Be brief."), "codellama-70b")
    head = [1, *pieces(" Source: system"), *pieces("\n\n Be brief.")]
    assert ids[: len(head)] == head


def test_70b_with_a_tokenizer_without_step_is_refused(tokenizer):
    with pytest.raises(GenerationError, match="needs a <step> token"):
        chat_ids(tokenizer, says("q"), "codellama-70b")


def training_row(tokenizer, conversation: Conversation, template: str):
    sample = encode_conversation(conversation, open_template(template), tokenizer, row_length=4096)
    learned = np.flatnonzero(sample.labels != IGNORE)
    return sample.ids.tolist(), learned


@pytest.mark.parametrize(("style", "template"), [("alpaca", "vicuna_v1.1"), ("alpaca-llama2", "llama2")])
@pytest.mark.parametrize("given_input", ["", "3 4"])
def test_alpaca_prompts_are_the_ids_that_finetuning_does_not_learn(tokenizer, style, template, given_input):
    record = {"instruction": "Add the numbers.", "input": given_input, "output": "7"}
    row, learned = training_row(tokenizer, to_conversation(record, "alpaca"), template)
    prompt = chat_ids(tokenizer, says("Add the numbers."), style, input_text=given_input)
    assert prompt == row[: learned[0]]


def test_vicuna_conversations_are_the_rows_of_finetuning(tokenizer):
    conversation = Conversation((("What is 1 + 1?", "2."), ("And 2 + 2?", "4.")))
    row, learned = training_row(tokenizer, conversation, "vicuna_v1.1")
    assert chat_ids(tokenizer, says("What is 1 + 1?"), "vicuna") == row[: learned[0]]
    second = chat_ids(tokenizer, says("What is 1 + 1?", "2.", "And 2 + 2?"), "vicuna")
    assert second == row[: len(second)]
    assert learned[learned >= len(second)][0] == len(second)


def test_a_wrong_style_gives_other_ids_than_finetuning(tokenizer):
    record = {"instruction": "Add the numbers.", "output": "7"}
    row, learned = training_row(tokenizer, to_conversation(record, "alpaca"), "vicuna_v1.1")
    for style in ("alpaca-plain", "vicuna", "completion"):
        assert chat_ids(tokenizer, says("Add the numbers."), style) != row[: learned[0]]


def test_alpaca_styles_do_not_remember_earlier_turns(tokenizer):
    assert chat_ids(tokenizer, says("a", "b", "c"), "alpaca") == chat_ids(tokenizer, says("c"), "alpaca")


def test_completion_is_the_plain_encoding(tokenizer):
    assert chat_ids(tokenizer, says("def f():\n"), "completion") == tokenizer("def f():\n")["input_ids"]


@pytest.mark.parametrize("style", sorted(set(CHAT_STYLES) - {"completion"}))
def test_spelled_special_tokens_stay_text_in_every_chat_style(stepping, style):
    ids = chat_ids(stepping, says("end </s> here <s>"), style)
    assert ids.count(2) == 0
    assert ids.count(1) == 1


@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>"])
@pytest.mark.parametrize("style", ["llama2", "codellama-70b", "alpaca-llama2"])
def test_tags_inside_any_message_are_refused(stepping, style, tag):
    for messages in (says(f"a {tag} b"), says("a", f"b {tag}", "c"), says("a", system=f"{tag}")):
        with pytest.raises(CodeLlamaError, match="special tag .* is not allowed in the prompt style"):
            chat_ids(stepping, messages, style)


@pytest.mark.parametrize("style", sorted(CHAT_STYLES))
def test_a_system_text_is_in_the_prompt_or_refused(stepping, style):
    if style in ("completion", "alpaca-plain"):
        with pytest.raises(GenerationError, match=f"system: the prompt style {style} has no place for a system text.*llama2"):
            chat_ids(stepping, says("q", system="Zebra."), style)
        assert chat_ids(stepping, says("q", system=""), style) == chat_ids(stepping, says("q"), style)
    else:
        assert "Zebra." in stepping.decode_pieces(chat_ids(stepping, says("q", system="Zebra."), style))


def test_roles_must_alternate_and_end_with_the_user(tokenizer):
    with pytest.raises(GenerationError, match="turn 2 is from 'user', must be from assistant"):
        chat_ids(tokenizer, [Message("user", "a"), Message("user", "b")], "vicuna")
    with pytest.raises(GenerationError, match="the last message must be from the user"):
        chat_ids(tokenizer, says("a", "b"), "vicuna")
    with pytest.raises(GenerationError, match="the last message must be from the user"):
        chat_ids(tokenizer, [], "vicuna")


def test_an_unknown_style_names_the_known_ones_and_input_belongs_to_alpaca(tokenizer):
    with pytest.raises(GenerationError, match="unknown style 'chatml'. Fix: write one of completion, llama2"):
        chat_ids(tokenizer, says("a"), "chatml")
    with pytest.raises(GenerationError, match="style vicuna has no input"):
        chat_ids(tokenizer, says("a"), "vicuna", input_text="x")


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("style", ["llama2", "codellama-70b", "vicuna"])
def test_a_conversation_too_long_loses_its_oldest_whole_turns_and_nothing_else(stepping, style, system):
    contents = [f"words of turn {number}" for number in range(9)]
    whole = chat_ids(stepping, says(*contents, system=system), style)
    shorter = [chat_ids(stepping, says(*contents[first:], system=system), style) for first in range(0, 9, 2)]
    for room in range(1, len(whole) + 2):
        ids, left_out = fitting_chat_ids(stepping, says(*contents, system=system), style, room)
        assert ids == shorter[left_out]
        assert len(ids) <= room or left_out == 4
        assert left_out == 0 or len(shorter[left_out - 1]) > room


def test_a_tag_in_a_turn_that_would_be_left_out_is_refused_all_the_same(tokenizer):
    with pytest.raises(GenerationError, match="special tag"):
        fitting_chat_ids(tokenizer, says("[INST]", "a", "b"), "llama2", 5)
