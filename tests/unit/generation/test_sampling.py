import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation import sampling

LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40).map(lambda values: np.asarray([values], dtype=np.float32))


def test_softmax_rows_sum_to_one_and_removed_tokens_have_none():
    probs = sampling.softmax(np.asarray([[1e30, -np.inf, 1e30], [0, 0, -np.inf]]))
    np.testing.assert_allclose(probs, [[0.5, 0, 0.5], [0.5, 0.5, 0]], atol=1e-15)


def test_top_p_keeps_the_crossing_token_and_no_other():
    logits = np.log(np.asarray([[0.1, 0.5, 0.15, 0.25]]))
    kept = np.isfinite(sampling.keep_top_p(logits, 0.6))
    # 0.5 < 0.6, so the 0.25 that crosses is kept; MindFormers would drop it.
    np.testing.assert_array_equal(kept, [[False, True, False, True]])


def test_top_p_below_the_largest_probability_keeps_the_most_likely():
    assert np.isfinite(sampling.keep_top_p(np.asarray([[0.0, 3.0, 1.0]]), 1e-9)).tolist() == [[False, True, False]]


@given(LOGITS, st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_it(logits, top_p):
    kept_V = np.isfinite(sampling.keep_top_p(logits, top_p))[0]
    probs_V = sampling.softmax(logits)[0]
    assert probs_V[kept_V].sum() >= top_p - 1e-9
    without_least = probs_V[kept_V].sum() - probs_V[kept_V].min()
    assert without_least <= top_p + 1e-9
    if not kept_V.all():
        assert probs_V[~kept_V].max() <= probs_V[kept_V].min() + 1e-12


@given(LOGITS, st.integers(0, 50))
def test_top_k_keeps_k_or_those_that_tie(logits, top_k):
    kept_V = np.isfinite(sampling.keep_top_k(logits, top_k))[0]
    if top_k == 0 or top_k >= logits.size:
        assert kept_V.all()
    else:
        least = np.sort(logits[0].astype(np.float64))[-top_k]
        np.testing.assert_array_equal(kept_V, logits[0] >= least)


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens():
    seen = np.asarray([[True, True, False, False]])
    np.testing.assert_allclose(sampling.penalise_repetition(np.asarray([[4.0, -4, 4, -4]]), seen, 2.0), [[2, -8, 4, -4]])


def test_penalties_come_before_temperature_and_top_k_after():
    config = GenerationConfig(do_sample=True, temperature=0.5, top_k=1, repetition_penalty=4.0)
    logits = np.asarray([[4.0, 3.0, 0.0]])
    processed = sampling.process(logits, config, seen_BV=np.asarray([[True, False, False]]), prompt_BV=None)
    # Token 0 falls from 4 to 1 before top-k chooses, so token 1 is the one kept; 3 / 0.5 = 6.
    np.testing.assert_allclose(sampling.warp(processed, config), [[-np.inf, 6.0, -np.inf]])


def test_encoder_penalty_makes_prompt_tokens_more_likely():
    config = GenerationConfig(encoder_repetition_penalty=2.0)
    out = sampling.process(np.asarray([[1.0, -1.0, 1.0]]), config, seen_BV=None, prompt_BV=np.asarray([[True, True, False]]))
    np.testing.assert_allclose(out, [[2.0, -0.5, 1.0]])


def test_renormalising_gives_log_probabilities_and_draws_the_same_tokens():
    logits = np.random.default_rng(0).normal(size=(3, 30)) * 4
    plain, normal = (GenerationConfig(do_sample=True, top_k=7, top_p=0.9, renormalize_logits=flag) for flag in (False, True))
    np.testing.assert_allclose(np.exp(sampling.warp(logits, normal)).sum(axis=1), 1, atol=1e-12)
    draws = [sampling.pick(logits, config, [sampling.row_generator(3, row) for row in range(3)]) for config in (plain, normal)]
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, r"\+inf")])
def test_logits_that_are_not_numbers_are_refused_with_row_and_step(bad, word):
    logits = np.zeros((2, 4))
    logits[1, 2] = bad
    with pytest.raises(GenerationError, match=rf"row 7, new token 3: the model's logits contain {word}.*float32"):
        sampling.check_logits(logits, [4, 7], 2)


def test_logits_of_minus_infinity_alone_are_refused_but_some_are_not():
    sampling.check_logits(np.asarray([[-np.inf, 0.0]]), [0], 0)
    with pytest.raises(GenerationError, match="nothing but -inf"):
        sampling.check_logits(np.full((1, 2), -np.inf), [0], 0)


def chi_square(counts_V, probs_V):
    expected_V = probs_V * counts_V.sum()
    alive_V = probs_V > 0
    assert counts_V[~alive_V].sum() == 0
    return float(((counts_V - expected_V)[alive_V] ** 2 / expected_V[alive_V]).sum()), int(alive_V.sum()) - 1


@pytest.mark.parametrize(
    ("options", "broken"),
    [({"top_k": 0}, False), ({"top_k": 4}, False), ({"top_k": 0, "top_p": 0.7}, False), ({"top_k": 0, "temperature": 1.6}, True)],
)
def test_drawn_frequencies_are_the_warped_probabilities(options, broken):
    logits = np.asarray([[0.3, -1.0, 1.2, 0.0, -2.0, 0.9]])
    config = GenerationConfig(do_sample=True, **options)
    generator = sampling.row_generator(11, 0)
    tokens = [int(sampling.pick(logits, config, [generator])[0]) for _ in range(4000)]
    probs_V = sampling.softmax(sampling.warp(logits, GenerationConfig(do_sample=True, top_k=0) if broken else config))[0]
    score, freedom = chi_square(np.bincount(tokens, minlength=6), probs_V)
    # Mean `freedom`, standard deviation sqrt(2 freedom): 5 deviations is beyond chance, and the seed is fixed.
    bound = freedom + 5 * np.sqrt(2 * freedom)
    # The last case compares with the probabilities of another temperature: the test can fail.
    assert (score > bound) if broken else (score < bound)


@settings(max_examples=50)
@given(LOGITS, st.integers(0, 2**32 - 1))
def test_a_removed_token_is_never_drawn(logits, seed):
    config = GenerationConfig(do_sample=True, top_k=2, top_p=0.5)
    token = sampling.pick(logits, config, [sampling.row_generator(seed, 0)])[0]
    assert np.isfinite(sampling.warp(logits, config)[0, token])


def test_draw_survives_a_number_next_to_one_and_zero():
    class Edge:
        def __init__(self, value):
            self.value = value

        def random(self):
            return self.value

    logits = np.asarray([[-np.inf, 0.0, 0.0, -np.inf]])
    assert sampling.draw(logits, [Edge(1 - 2**-53)]).tolist() == [2]
    assert sampling.draw(logits, [Edge(0.0)]).tolist() == [1]


def test_rows_and_seeds_have_their_own_numbers():
    first = [sampling.row_generator(seed, row).random() for seed, row in ((0, 0), (0, 1), (1, 0))]
    assert len(set(first)) == 3
