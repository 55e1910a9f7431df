import hashlib

import pytest

from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.prompts import PROMPT_STYLES, alpaca_prompt, prompt_style


def test_the_alpaca_prompt_equals_the_example_of_the_guide():
    # the text the Code Llama guide of MindFormers shows after alpaca_converter.py
    expected = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nCreate an array of length 5 which contains all even numbers between 1 and 10.\n\n### Response:"
    )
    assert alpaca_prompt("Create an array of length 5 which contains all even numbers between 1 and 10.") == expected


def test_the_alpaca_prompts_are_stanfords_to_the_byte():
    # sha256 of the two templates of Stanford Alpaca's train.py and MindFormers' alpaca_converter.py, placeholders kept
    with_input, without = alpaca_prompt("{instruction}", "{input}"), alpaca_prompt("{instruction}")
    assert hashlib.sha256(with_input.encode()).hexdigest() == "28811e9850d9511bab334d167a03a8a37614535fdb28d645492efac8e9951c0f"
    assert hashlib.sha256(without.encode()).hexdigest() == "35101bc36d10997c7d926d8f21f7d173aec6523f3a57d78821b944a89925cdca"
    assert with_input.endswith("### Input:\n{input}\n\n### Response:")


def test_braces_in_a_users_words_stay():
    assert "{x} {{y}} {0}" in alpaca_prompt("{x} {{y}} {0}")
    assert "### Input:\n{'a': 1}\n" in alpaca_prompt("sort", "{'a': 1}")


def test_every_style_of_the_model_registry_has_its_texts():
    from mindformers_codellama.config.families import FAMILIES

    assert {facts.prompt_style for facts in FAMILIES.values()} <= set(PROMPT_STYLES)


def test_an_unknown_style_is_refused():
    with pytest.raises(TokenizerError, match="unknown prompt style 'chatml'. Fix: write one of completion, llama2, codellama-70b"):
        prompt_style("chatml")
