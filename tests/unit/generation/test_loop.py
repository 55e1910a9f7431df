import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoders import BigramDecoder, RecurrentDecoder, script

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import Findings, GenerationError, TokenizerError
from mindformers_codellama.generation.loop import Listeners, generate, generate_rows

PROMPTS = st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=6), min_size=1, max_size=4)


def config(**options) -> GenerationConfig:
    return GenerationConfig(**{"eos_token_ids": (2,), "max_new_tokens": 12, **options})


def test_greedy_follows_the_largest_logit_and_keeps_the_end_token():
    ids = generate(script(9, {3: 4, 4: 5, 5: 2}), [[1, 3]], config())
    assert ids[0].tolist() == [1, 3, 4, 5, 2]
    assert ids[0].dtype == np.int32


def test_greedy_equals_a_loop_that_reads_everything_anew():
    decoder, prompt = RecurrentDecoder(), [4, 7, 1]
    expected = list(prompt)
    while len(expected) < 15 and expected[-1] != 2:
        expected.append(int(np.argmax(decoder.log_probs_after(expected))))
    assert generate(decoder, [prompt], config())[0].tolist() == expected


@settings(max_examples=40, deadline=None)
@given(PROMPTS, st.booleans())
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(prompts, do_sample):
    options = config(do_sample=do_sample, top_k=0, seed=5, repetition_penalty=1.3, encoder_repetition_penalty=1.1)
    decoder = RecurrentDecoder(scale=1.0)
    together = generate(decoder, prompts, options)
    alone = [generate_rows(decoder, [prompt], options, first_row=row).ids[0] for row, prompt in enumerate(prompts)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_batch_equality_can_fail_when_padding_is_read():
    class Careless(RecurrentDecoder):
        def prefill(self, tokens_BT, lengths_B):
            return super().prefill(tokens_BT, np.full_like(lengths_B, tokens_BT.shape[1]))

    prompts = [[4], [5, 6, 7, 8], [9, 1]]
    together = generate(Careless(), prompts, config())
    alone = [generate(Careless(), [prompt], config())[0] for prompt in prompts]
    assert any(one.tolist() != other.tolist() for one, other in zip(together, alone, strict=True))


def test_a_sampled_row_does_not_depend_on_its_batch_mates_and_seeds_reproduce():
    options = config(do_sample=True, top_k=0, seed=7)
    answers = [generate(RecurrentDecoder(scale=0.5), [[5], mate, [6]], options) for mate in ([3], [3, 4, 9, 9])]
    for row in (0, 2):
        np.testing.assert_array_equal(answers[0][row], answers[1][row])
    other = generate(RecurrentDecoder(scale=0.5), [[5], [3], [6]], config(do_sample=True, top_k=0, seed=8))
    assert any(one.tolist() != two.tolist() for one, two in zip(answers[0], other, strict=True))


def test_no_seed_is_seed_zero():
    answers = [generate(RecurrentDecoder(scale=0.5), [[5]], config(do_sample=True, top_k=0, seed=seed))[0] for seed in (None, 0)]
    np.testing.assert_array_equal(*answers)


def test_equal_prompts_in_one_request_draw_different_answers():
    answers = generate(RecurrentDecoder(scale=0.1), [[5]] * 4, config(do_sample=True, top_k=0, eos_token_ids=()))
    assert len({tuple(answer) for answer in answers}) > 1


def test_rows_end_at_their_own_end_token_or_length():
    result = generate_rows(script(9, {3: 4, 4: 2, 6: 7, 7: 6}), [[3], [6], [4]], config(max_new_tokens=5))
    assert [ids.tolist() for ids in result.ids] == [[3, 4, 2], [6, 7, 6, 7, 6, 7], [4, 2]]
    assert result.finish_reasons == ["eos", "length", "eos"]
    assert [result.new_ids(row).tolist() for row in (0, 2)] == [[4, 2], [2]]


def test_any_of_several_end_tokens_ends():
    decoder = script(9, {3: 4, 4: 8, 5: 2})
    result = generate_rows(decoder, [[3], [5]], config(eos_token_ids=(2, 8)))
    assert [ids.tolist() for ids in result.ids] == [[3, 4, 8], [5, 2]]


def test_no_end_tokens_goes_on_to_the_length():
    assert len(generate(script(9, {3: 2, 2: 3}), [[3]], config(eos_token_ids=()))[0]) == 13


def test_max_length_counts_the_prompt_of_each_row():
    ids = generate(script(9, {3: 4, 4: 3}), [[3], [4, 4, 4]], config(max_new_tokens=None, max_length=5))
    assert [len(row) for row in ids] == [5, 5]


def test_finished_rows_are_stepped_with_padding():
    seen = []

    class Watching(BigramDecoder):
        def step(self, tokens_B):
            seen.append(tokens_B.tolist())
            return super().step(tokens_B)

    watching = Watching(script(9, {3: 2, 6: 7, 7: 6}).logits_VV)
    generate(watching, [[3], [6]], config(max_new_tokens=3, pad_token_id=0))
    assert seen == [[2, 7], [0, 6]]


def test_max_length_is_cut_to_the_model_with_a_warning(caplog):
    decoder = script(9, {3: 4, 4: 3})
    decoder.max_length = 6
    with caplog.at_level(logging.WARNING):
        assert len(generate(decoder, [[3]], config(max_new_tokens=50))[0]) == 6
    assert "length 51 asked for, the model has 6 positions" in caplog.text


def test_prompts_without_room_are_refused_all_at_once_with_their_numbers():
    decoder = script(9, {})
    with pytest.raises(Findings) as caught:
        generate(decoder, [[1] * 6, [1], [1] * 7], config(max_new_tokens=None, max_length=6))
    text = str(caught.value)
    assert "prompt 0: has 6 tokens, max_length is 6: no room for an answer. Fix: set max_length above 6 (at most 64)" in text
    assert "prompt 2: has 7 tokens" in text
    decoder.max_length = 4
    with pytest.raises(GenerationError, match="prompt 0: has 4 tokens, the model's length is 4.*larger seq_length"):
        generate(decoder, [[1] * 4], config())


@pytest.mark.parametrize("bad", [9, -1])
def test_token_ids_outside_the_vocabulary_name_the_id_and_the_size(bad):
    with pytest.raises(
        TokenizerError, match=rf"prompt 1: token id {bad} is outside the model's vocabulary of 9 .*tokenizer and model disagree"
    ):
        generate(script(9, {}), [[1], [3, bad]], config())


def test_an_empty_prompt_becomes_the_begin_token():
    assert generate(script(9, {1: 5, 5: 2}), [[]], config(bos_token_id=1))[0].tolist() == [1, 5, 2]


def test_no_prompts_give_no_answers():
    assert generate(script(9, {}), [], config()) == []


def test_logits_that_are_not_numbers_stop_with_row_and_token():
    decoder = script(9, {3: 4, 4: 5})
    decoder.logits_VV[4, 0] = np.nan
    with pytest.raises(GenerationError, match="row 1, new token 2: the model's logits contain NaN"):
        generate(decoder, [[6], [3]], config(eos_token_ids=()))


def test_nan_in_a_row_that_has_ended_does_not_matter():
    decoder = script(9, {3: 2, 6: 7, 7: 6})
    decoder.logits_VV[0] = np.nan  # what the padding token would lead to
    assert generate(decoder, [[3], [6]], config(max_new_tokens=4))[0].tolist() == [3, 2]


def test_repetition_penalty_takes_prompt_and_answer_into_account():
    logits = np.zeros((5, 5))
    logits[:, 3], logits[:, 4], logits[:, 1] = 4.0, 3.0, 2.5
    ids = generate(BigramDecoder(logits), [[3]], config(repetition_penalty=2.0, max_new_tokens=3))
    # 3 is in the prompt: 4/2 < 3, so 4; then 4/2, 3/2 < 2.5, so 1; then all are seen: 4/2 is the largest.
    assert ids[0].tolist() == [3, 4, 1, 3]


def test_ids_streamer_hears_the_prompt_then_each_token():
    heard = []

    class Listening:
        def put(self, value):
            heard.append(value.tolist() if isinstance(value, np.ndarray) else value)

        def end(self):
            heard.append("end")

    generate(script(9, {3: 4, 4: 2}), [[1, 3]], config(), streamer=Listening())
    assert heard == [[1, 3], [4], [2], "end"]
    heard.clear()
    generate(script(9, {3: 4, 4: 2}), [[3], [4]], config(), streamer=Listening())
    assert heard == [[[3], [4]], [[4], [2]], [[2], []], "end"]


def test_cancelling_keeps_what_there_is():
    asked = iter([False, False, True])
    result = generate_rows(script(9, {3: 4, 4: 3}), [[3]], config(), listeners=Listeners(should_stop=lambda: next(asked)))
    assert result.ids[0].tolist() == [3, 4, 3]
    assert result.finish_reasons == ["cancelled"]


def test_speed_counts_tokens_and_adds_over_batches():
    stats = generate_rows(script(9, {3: 4, 4: 5, 5: 2}), [[1, 3], [5]], config()).stats
    assert (stats.prompt_tokens, stats.new_tokens, stats.steady_tokens) == (3, 4, 1)
    assert 0 < stats.first_token_seconds < stats.total_seconds
    assert stats.tokens_per_second == stats.steady_tokens / stats.steady_seconds > 0
    assert (stats + stats).new_tokens == 8
    assert (stats + stats).tokens_per_second == pytest.approx(stats.tokens_per_second)
    assert "4 new tokens in" in str(stats)
    assert generate_rows(script(9, {3: 2}), [[3]], config()).stats.tokens_per_second == 0
