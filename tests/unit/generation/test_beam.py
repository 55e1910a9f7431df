import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoders import RecurrentDecoder

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation.loop import Listeners, generate, generate_rows


def config(**options) -> GenerationConfig:
    return GenerationConfig(**{"eos_token_ids": (2,), "max_new_tokens": 5, **options})


def best_of_all(decoder, prompt, *, length, penalty):
    """Score of the best continuation, by looking at every one of them."""
    best = (-np.inf, ())
    for size in range(1, length + 1):
        for tokens in itertools.product(range(decoder.vocab_size), repeat=size):
            ends = tokens[-1] == 2 or size == length
            if 2 in tokens[:-1] or not ends:
                continue
            score = sum(decoder.log_probs_after([*prompt, *tokens[:i]])[token] for i, token in enumerate(tokens))
            best = max(best, (score / size**penalty, tokens))
    return best


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_wide_beams_find_the_best_of_all_continuations(penalty):
    decoder, prompt = RecurrentDecoder(vocab_size=4, scale=0.8, seed=3), [1, 3]
    # 64 beams over 4 tokens and 4 steps leave nothing out.
    result = generate_rows(decoder, [prompt], config(num_beams=64, length_penalty=penalty, max_new_tokens=4))
    score, tokens = best_of_all(decoder, prompt, length=4, penalty=penalty)
    assert tuple(result.new_ids(0)) == tokens
    assert result.scores is not None
    assert result.scores[0] == pytest.approx(score, abs=1e-9)


def test_beams_beat_greedy_where_the_first_choice_misleads():
    wins = 0
    for seed in range(20):
        decoder = RecurrentDecoder(vocab_size=6, seed=seed, scale=1.5)
        ids = [generate(decoder, [[1]], config(num_beams=width, eos_token_ids=()))[0].tolist() for width in (1, 6)]
        greedy, beams = (sum(decoder.log_probs_after(row[:i])[row[i]] for i in range(1, 6)) for row in ids)
        assert beams >= greedy - 1e-9
        wins += beams > greedy + 1e-9
    assert wins > 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=5), min_size=1, max_size=3), st.integers(2, 4))
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(prompts, width):
    options = config(num_beams=width, repetition_penalty=1.2, encoder_repetition_penalty=1.1)
    decoder = RecurrentDecoder(scale=1.0)
    together = generate(decoder, prompts, options)
    for prompt, answer in zip(prompts, together, strict=True):
        np.testing.assert_array_equal(answer, generate(decoder, [prompt], options)[0])


def test_beam_equality_can_fail_when_the_state_is_not_reordered():
    class Stuck(RecurrentDecoder):
        def reorder(self, rows_B):
            pass

    def scores(kind):
        return [generate_rows(kind(scale=1.0, seed=seed), [[3]], config(num_beams=4, eos_token_ids=())).scores for seed in range(5)]

    assert scores(RecurrentDecoder) != scores(Stuck)


def test_beams_of_a_prompt_are_rows_of_the_decoder():
    decoder = RecurrentDecoder()
    generate(decoder, [[1], [3, 4]], config(num_beams=3))
    assert decoder.batches == [6]


def test_beams_need_no_sampling_seed_and_ignore_do_sample():
    answers = [generate(RecurrentDecoder(), [[5]], config(num_beams=3, do_sample=flag, seed=4))[0] for flag in (False, True)]
    np.testing.assert_array_equal(*answers)


def test_streaming_and_stop_strings_with_beams_are_refused():
    class Deaf:
        def put(self, value):
            pass

        def end(self):
            pass

    with pytest.raises(GenerationError, match="beam search knows its answer only at the end"):
        generate(RecurrentDecoder(), [[5]], config(num_beams=2), streamer=Deaf())


def test_cancelling_before_any_answer_gives_the_best_running_beam():
    asked = iter([False, False, True])
    listeners = Listeners(should_stop=lambda: next(asked))
    result = generate_rows(RecurrentDecoder(), [[5]], config(num_beams=2, eos_token_ids=()), listeners=listeners)
    assert result.finish_reasons == ["cancelled"]
    assert len(result.new_ids(0)) == 2
