"""Generation options: ranges, spellings, and how later ones win."""

import numpy as np
import pytest

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import Findings, GenerationError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length: got 0, must be at least 1."),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0, must be at least 1. Fix: leave it out to use max_length."),
        ({"temperature": 0.0}, "temperature: got 0.0, must be above 0. Fix: for the most likely token write do_sample False."),
        ({"temperature": float("nan")}, "temperature: got nan, must be above 0"),
        ({"top_k": -1}, "top_k: got -1, must be at least 0. Fix: 0 keeps all tokens."),
        ({"top_p": 0.0}, "top_p: got 0.0, must be above 0 and at most 1."),
        ({"top_p": 1.1}, "top_p: got 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty: got 0"),
        ({"num_beams": 0}, "num_beams: got 0"),
        ({"length_penalty": float("inf")}, "length_penalty: got inf"),
        ({"eos_token_ids": (-1,)}, "eos_token_ids: got"),
        ({"pad_token_id": -1}, "pad_token_id: got -1"),
        ({"stop_strings": ("",)}, "stop_strings: got"),
        ({"seed": -1}, "seed: got -1"),
        ({"max_new_tokens": "3"}, "max_new_tokens: got '3', must be a whole number."),
        ({"max_new_tokens": 2.5}, "max_new_tokens: got 2.5, must be a whole number."),
        ({"top_k": True}, "top_k: got True, must be a whole number."),
        ({"temperature": "hot"}, "temperature: got 'hot', must be a number."),
        ({"do_sample": "False"}, "do_sample: got 'False', must be True or False."),
        ({"eos_token_ids": (2, "x")}, "eos_token_ids: got (2, 'x'), must be token ids."),
        ({"stop_strings": (1,)}, "stop_strings: got (1,), must be texts."),
    ],
)
def test_a_value_out_of_range_is_refused_at_birth(options, message):
    with pytest.raises(GenerationError) as caught:
        GenerationConfig(**options)
    assert str(caught.value).startswith(message)


def test_numbers_of_numpy_are_numbers():
    config = GenerationConfig().updated(
        top_k=np.int32(3), temperature=np.float32(0.5), do_sample=np.bool_(True), eos_token_id=np.array([2, 5])
    )
    assert (config.top_k, config.eos_token_ids) == (3, (2, 5))
    assert GenerationConfig().updated(eos_token_id=np.int64(7)).eos_token_ids == (7,)


def test_several_wrong_values_come_together():
    with pytest.raises(Findings, match="2 problems"):
        GenerationConfig(top_p=2, top_k=-1)


def test_defaults_are_mindformers():
    config = GenerationConfig()
    assert (config.max_length, config.do_sample, config.num_beams, config.top_k, config.top_p, config.temperature) == (
        20,
        False,
        1,
        50,
        1.0,
        1.0,
    )


def test_options_are_taken_in_mindformers_names_too():
    config = GenerationConfig().updated(eos_token_id=5, max_decode_length=9, stop="x", top_k=None)
    assert (config.eos_token_ids, config.max_length, config.stop_strings, config.top_k) == ((5,), 9, ("x",), 50)
    assert GenerationConfig().updated(eos_token_id=[5, 6]).eos_token_ids == (5, 6)


def test_a_length_asked_for_now_wins_over_an_answer_length_from_before():
    before = GenerationConfig(max_new_tokens=4)
    assert before.updated(max_length=30).max_new_tokens is None
    assert before.updated(max_length=30, max_new_tokens=3).max_new_tokens == 3
    assert before.updated(top_k=3).max_new_tokens == 4


def test_an_unknown_option_is_refused_with_the_near_one():
    with pytest.raises(GenerationError, match=r"max_new_token: unknown generation option. Fix: did you mean max_new_tokens\?"):
        GenerationConfig().updated(max_new_token=3)
