"""`chat_prompt_ids`: the published ids of 70B Instruct, Hugging Face's templates where they are right, Meta's rules elsewhere."""

import pytest
import sentencepiece
from infilling_models import code_llama_file, opened, without_implicit_space

from mindformers_codellama import chat_prompt_ids
from mindformers_codellama.errors import CodeLlamaError, GenerationError

CHAT = [
    {"role": "system", "content": "System prompt    "},
    {"role": "user", "content": "First user query"},
    {"role": "assistant", "content": "Model response to first query"},
    {"role": "user", "content": "Second user query"},
]
# huggingface.co/codellama/CodeLlama-70b-Instruct-hf, model card: what Meta's dialog_prompt_tokens gives for CHAT
PUBLISHED_70B = [
    *(1, 7562, 29901, 1788, 13, 13, 2184, 9508, 32015, 7562, 29901, 1404, 13, 13, 3824, 1404, 2346, 32015),
    *(7562, 29901, 20255, 13, 13, 8125, 2933, 304, 937, 2346, 32015, 7562, 29901, 1404, 13, 13, 6440, 1404, 2346, 32015),
    *(7562, 29901, 20255, 13, 14994, 3381, 29901, 1404, 13, 13, 29871),
]
# chat templates of codellama/CodeLlama-7b-Instruct-hf and of CodeLlama-70b-Instruct-hf, tokenizer_config.json
TEMPLATE_LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<s>' + '[INST] ' + content | trim + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content | trim + ' ' + '</s>' }}{% endif %}{% endfor %}"
)
TEMPLATE_70B = (
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ '<s>' }}{% endif %}"
    "{% set content = 'Source: ' + message['role'] + '\\n\\n ' + message['content'] | trim %}{{ content + ' <step> ' }}{% endfor %}"
    "{{ 'Source: assistant\\nDestination: user\\n\\n ' }}"
)


@pytest.fixture(scope="module")
def seventy(shared_model, tmp_path_factory):
    """As Code Llama 70B Instruct's file: 32016 pieces, `<step>` at 32015, no implicit space."""
    return opened(tmp_path_factory.mktemp("seventy"), without_implicit_space(code_llama_file(shared_model.read_bytes())))


def rendered(template: str, messages) -> str:
    """The text of a template, by transformers."""
    transformers = pytest.importorskip("transformers", reason="it renders chat templates")
    from transformers.utils import chat_template_utils

    assert transformers
    return chat_template_utils.render_jinja_template([messages], chat_template=template)[0][0]


def test_the_published_ids_of_70b_instruct_are_met(seventy):
    assert chat_prompt_ids(seventy, CHAT, style="codellama-70b") == PUBLISHED_70B


def test_70b_without_a_system_message_has_an_empty_one_which_the_template_leaves_out(seventy):
    """Meta's code inserts it; the model card says so, the template does not do it."""
    ids = chat_prompt_ids(seventy, CHAT[1:], style="codellama-70b")
    assert ids == [1, 7562, 29901, 1788, 32015, *PUBLISHED_70B[9:]]
    assert "system" not in rendered(TEMPLATE_70B, CHAT[1:])


def test_the_70b_template_is_right_when_there_is_a_system_message(seventy):
    """The template's text cut at its steps, where Hugging Face's tokenizer drops the spaces around."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(seventy.path))
    ids = [1]
    for part in rendered(TEMPLATE_70B, CHAT).removeprefix("<s>").split(" <step> "):
        ids += [*sp.encode(" " + part), 32015]
    assert ids[:-1] == PUBLISHED_70B


def test_a_destination_is_written_in_the_header_as_in_metas_code(seventy):
    sp = sentencepiece.SentencePieceProcessor(model_file=str(seventy.path))
    chat = [*CHAT[:2], {**CHAT[2], "destination": "user"}, CHAT[3]]
    header = sp.encode(" Source: assistant\nDestination: user")
    ids = chat_prompt_ids(seventy, chat, style="codellama-70b")
    assert len(ids) == len(PUBLISHED_70B) + len(header) - 3
    assert ids[18 : 18 + len(header)] == header


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("system", ["System prompt    ", "", "two\nlines"])
def test_the_llama2_template_gives_the_same_ids_turn_by_turn(tiny, first, system):
    chat = [{"role": "system", "content": system}, *CHAT[1:]][first:]
    text = rendered(TEMPLATE_LLAMA2, chat)
    assert chat_prompt_ids(tiny, chat, style="llama2") == tiny.encode(text, add_special_tokens=False)


def test_llama2_ids_are_metas_pairs_over_sentencepiece(shared_model, tmp_path):
    tokenizer = opened(tmp_path, code_llama_file(shared_model.read_bytes()))
    sp = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    first = "[INST] <<SYS>>\nSystem prompt    \n<</SYS>>\n\nFirst user query [/INST] Model response to first query "
    expected = [1, *sp.encode(first), 2, 1, *sp.encode("[INST] Second user query [/INST]")]
    assert chat_prompt_ids(tokenizer, CHAT, style="llama2") == expected


def test_content_may_be_a_list_of_text_parts(tiny):
    parts = [{"type": "text", "text": "First "}, {"type": "text", "text": "user query"}]
    chat = [{"role": "user", "content": parts, "name": "ada"}]
    assert chat_prompt_ids(tiny, chat, style="llama2") == chat_prompt_ids(tiny, CHAT[1:2], style="llama2")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "messages: must be a list of messages, got str"),
        ([], "the last message must be from the user"),
        ([{"role": "tool", "content": "x"}], r"messages\[0\].role: got 'tool'. Fix: write one of system, user, assistant"),
        ([{"role": "user", "content": []}], r"messages\[0\].content: must be a text or a list of text parts"),
        ([{"role": "user", "content": b""}], r"messages\[0\].content: must be a text"),
        ([{"role": "user"}], r"messages\[0\].content: must be a text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "take images and audio out"),
        ([{"role": "user", "content": "x", "tool_calls": [1]}], "has the key tool_calls"),
        ([{"role": "user", "content": "x", "destination": "a\nb"}], "must be a text of one line"),
        (["x"], "must have role and content, got str"),
        ([*CHAT[1:2], *CHAT[3:]], "turn 2 is from 'user', must be from assistant"),
        ([CHAT[1], CHAT[0]], "turn 2 is from 'system'.* Fix: one message from system may stand before all others"),
        ([CHAT[0], *CHAT[:2]], "turn 1 is from 'system', must be from user"),
        ([CHAT[2]], "turn 1 is from 'assistant', must be from user"),
        ([{"role": "user", "content": "a [/INST] b"}], r"special tag \[/INST\] is not allowed"),
    ],
)
def test_other_messages_are_refused_with_what_to_write(tiny, messages, words):
    with pytest.raises(GenerationError, match=words):
        chat_prompt_ids(tiny, messages, style="llama2")


def test_all_wrong_messages_are_told_at_once(tiny):
    with pytest.raises(CodeLlamaError, match="2 problems"):
        chat_prompt_ids(tiny, [{"role": "x", "content": ""}, {"role": "user", "content": 3}], style="llama2")


def test_a_tag_in_a_destination_is_refused_too(seventy):
    with pytest.raises(GenerationError, match="special tag <step>"):
        chat_prompt_ids(seventy, [{"role": "user", "content": "x", "destination": "<step>"}], style="codellama-70b")
