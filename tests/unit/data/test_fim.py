"""Infilling tasks against Meta's rules over sentencepiece alone, the prompts of inference, and what is promised of any text."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama import infilling_prompt_ids
from mindformers_codellama.data.encode import IGNORE
from mindformers_codellama.data.fim import LEAST_LENGTH, Draw, FimOptions, draw, fim_samples, task_ids
from mindformers_codellama.data.text_source import Block
from mindformers_codellama.errors import DataError, Findings
from mindformers_codellama.text.auto import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "text"))
from infilling_models import MetaRules

TINY = AutoTokenizer.from_pretrained("codellama_tiny")
RULES = MetaRules(TINY.path)
# SentencePiece writes a space as U+2581, so that one character cannot come back as itself
CODE = st.sampled_from(["def f(self):", "\n", "\n    ", "    ", "import ", " = ", "(", "\t", "# \u6f22", "\U0001f600", "<MID>", " <EOT>"])
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\r"), max_size=6)
TEXTS = st.lists(st.one_of(CODE, PLAIN), max_size=12).map("".join)
SOURCE = (Path(__file__).parents[3] / "mindformers_codellama" / "data" / "batches.py").read_text()


def samples(text, length=65, number=0, last=True, **options):
    return list(fim_samples(Block("x", text, True, last), number, TINY, FimOptions(**options), length))


def parts_of(ids, order, choices=None):
    """Prefix, middle and suffix of a task; in SPM prefix and middle come joined, as the first of them.

    Without a prefix an SPM middle has no implicit space; that is not seen in the ids but in the draw.
    """
    suf, mid = ids.index(RULES.suf), ids.index(RULES.mid)
    assert (ids[:2], ids[-1]) == ([1, RULES.pre], RULES.eot)
    if order == "psm":
        return TINY.decode_pieces(ids[2:suf]), TINY.decode_infilling(ids[mid + 1 : -1]), TINY.decode_infilling(ids[suf + 1 : mid])
    assert suf == 2
    joined, suffix = ids[mid + 1 : -1], TINY.decode_infilling(ids[3:mid])
    bare = TINY.decode_infilling(joined)
    alone = choices is not None and choices.split(bare + suffix)[0] == ""
    return bare if alone else TINY.decode_pieces(joined), "", suffix


def texts_of(found, number=0):
    """The text of each transformed sample."""
    chance = np.random.default_rng((0, number))
    return ["".join(parts_of(one.piece.ids.tolist(), one.order, draw(chance, FimOptions()))) for one in found]


def test_300_tasks_are_those_of_metas_rules_over_sentencepiece():
    chance = random.Random(7)
    for _ in range(300):
        start = chance.randrange(len(SOURCE) - 300)
        text = SOURCE[start : start + chance.randrange(1, 300)]
        one, two = sorted(chance.choices(range(len(text) + 1), k=2))
        prefix, middle, suffix = text[:one], text[one:two], text[two:]
        ids, masked = task_ids(TINY, prefix, middle, suffix, suffix_first=False)
        assert ids == [*RULES.prompt(prefix, suffix, False), *RULES.infilling(middle), RULES.eot]
        assert masked == ids.index(RULES.mid) + 1
        ids, masked = task_ids(TINY, prefix, middle, suffix, suffix_first=True)
        joined = RULES.sp.encode(prefix + middle) if prefix else RULES.infilling(middle)
        assert ids == [1, RULES.pre, RULES.suf, *RULES.infilling(suffix), RULES.mid, *joined, RULES.eot]
        prompt = RULES.prompt(prefix, suffix, True)
        assert ids[:masked] == prompt[:masked], "what is not learned is what the prompt begins with"
        assert masked == len(prompt) or ids[masked] != prompt[masked]


@given(TEXTS, TEXTS, TEXTS)
def test_ids_before_the_middle_are_the_prompt_of_inference(prefix, middle, suffix):
    ids, masked = task_ids(TINY, prefix, middle, suffix, suffix_first=False)
    assert ids[:masked] == infilling_prompt_ids(TINY, prefix, suffix)
    lines = prefix + "\n"  # a line end is a piece of its own, so no token lies across a cursor behind it
    ids, masked = task_ids(TINY, lines, middle, suffix, suffix_first=True)
    assert ids[:masked] == infilling_prompt_ids(TINY, lines, suffix, suffix_first=True)
    ids, masked = task_ids(TINY, "", middle, suffix, suffix_first=True)
    assert ids[:masked] == infilling_prompt_ids(TINY, "", suffix, suffix_first=True)
    assert TINY.decode_infilling(ids[masked:-1]) == middle


@settings(max_examples=60)
@given(TEXTS, st.integers(0, 5), st.sampled_from([0.0, 0.5, 1.0]), st.integers(LEAST_LENGTH + 1, 80))
def test_no_character_is_lost_and_no_sample_is_longer_than_a_row(text, number, spm_rate, length):
    text = text * 4
    found = samples(text, length, number, rate=1.0, spm_rate=spm_rate)
    assert "".join(texts_of(found, number)) == text
    assert all(len(one.piece.ids) <= length for one in found)
    assert {one.order for one in found} <= {0.0: {"psm"}, 0.5: {"psm", "spm"}, 1.0: {"spm"}}[spm_rate]


def test_long_words_cut_in_two_still_fit():
    """Cuts inside long pieces make the ids more; the part shrinks, the cuts stay where the draw put them."""
    for number in range(200):
        for one in samples("internationalization = self.assertEqual(" * 8, LEAST_LENGTH + 1, number, rate=1.0):
            assert len(one.piece.ids) <= LEAST_LENGTH + 1


def test_a_document_that_fits_is_one_sample_and_a_long_one_is_cut_at_line_breaks():
    assert len(samples("x = 1\n" * 5)) == 1
    found = samples(SOURCE, 257, rate=1.0)
    texts = texts_of(found)
    assert "".join(texts) == SOURCE
    assert all(text.endswith("\n") for text in texts)


def test_parts_of_a_long_document_have_lengths_of_every_size_so_that_none_tells_where_a_middle_ends():
    lengths = [len(one.piece.ids) / 257 for number in range(6) for one in samples(SOURCE, 257, number, rate=1.0, part_from=0.2)[:-1]]
    assert np.histogram(lengths, bins=4, range=(0.2, 1))[0].min() > len(lengths) / 16, "a quarter each, whole lines aside"
    assert np.mean([len(one.piece.ids) for one in samples(SOURCE, 257, rate=1.0, part_from=1.0)[:-1]]) > 0.9 * 257


def test_what_is_left_as_it_is_has_an_end_only_where_the_document_ends():
    found = [one.piece.ids.tolist() for one in samples(SOURCE, 257, rate=0.0)]
    assert {ids[0] for ids in found} == {1}
    assert [2 in ids for ids in found] == [False] * (len(found) - 1) + [True]
    assert found[0][1:] == RULES.sp.encode(TINY.decode_pieces(found[0][1:]))
    assert 2 not in samples("x = 1\n", last=False, rate=0.0)[0].piece.ids.tolist()


def test_rates_are_within_five_deviations_and_cuts_are_spread_evenly():
    chance, options = np.random.default_rng(3), FimOptions()
    drawn = [draw(chance, options) for _ in range(4000)]
    infilled = [one for one in drawn if one.infill]
    assert abs(len(infilled) - 3600) < 5 * (4000 * 0.9 * 0.1) ** 0.5
    assert abs(sum(one.suffix_first for one in infilled) - len(infilled) / 2) < 5 * (len(infilled) / 4) ** 0.5
    starts = [len(one.split("abcd")[0]) for one in drawn] + [4 - len(one.split("abcd")[2]) for one in drawn]
    counts = np.bincount(starts, minlength=5)  # both cuts of 4000 draws on 5 places
    assert np.abs(counts - 1600).max() < 5 * (8000 * 0.2 * 0.8) ** 0.5


def test_a_draw_cuts_at_every_place_ends_included():
    assert Draw(True, False, (0.0, 0.999), 1.0).split("ab") == ("", "ab", "")
    assert Draw(True, False, (0.5, 0.4), 1.0).split("ab") == ("a", "", "b")
    assert Draw(True, False, (0.0, 0.0), 1.0).split("ab") == ("", "", "ab")


def test_a_share_of_the_middles_lies_in_one_line_and_half_of_those_begin_and_half_end_where_it_does():
    text = "def f(a):\n\n    return a + 12345\n"
    chance, options = np.random.default_rng(5), FimOptions(line_rate=0.25)
    drawn = [draw(chance, options) for _ in range(8000)]
    inside = [one.split(text) for one in drawn if one.line is not None]
    assert abs(len(inside) - 2000) < 5 * (8000 * 0.25 * 0.75) ** 0.5
    assert all(prefix + middle + suffix == text and "\n" not in middle for prefix, middle, suffix in inside)
    in_first = [prefix for prefix, middle, suffix in inside if len(prefix) <= 9]
    assert abs(len(in_first) - len(inside) / 2) < 5 * (len(inside) / 4) ** 0.5, "both lines, and never the blank one"
    begin = sum(prefix == "" or prefix.endswith("\n") for prefix, _, _ in inside) / len(inside)
    end = sum(suffix.startswith("\n") for _, _, suffix in inside) / len(inside)
    # half, and of the others those whose cut fell there: 1 in 10 and 1 in 21 places, and either cut may be the first
    assert 0.5 < begin < 0.62
    assert 0.5 < end < 0.62
    assert Draw(True, False, (0.2, 0.7), 1.0, 0.99).split(text)[1] == "    return a + 12345"
    assert Draw(True, False, (0.2, 0.7), 1.0, 0.5).split("\n \n") == ("", "\n ", "\n"), "nothing but blank lines: cut anywhere"


def test_rows_without_middles_in_a_line_do_not_depend_on_there_being_such():
    chance, before = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(50):
        one, numbers = draw(chance, FimOptions()), before.random(5)
        assert (one.places, one.line) == ((numbers[2], numbers[3]), None)


def test_the_number_and_the_seed_move_the_cuts_and_the_rates_do_not():
    def ids(**options):
        return [one.piece.ids.tolist() for one in samples(SOURCE[:100], **{"rate": 1.0, "spm_rate": 0.0, **options})]

    assert ids() == ids()
    assert len({str(ids(number=number)) for number in range(8)} | {str(ids(seed=seed)) for seed in range(8)}) > 10
    middles = [parts_of(ids(spm_rate=rate)[0], order)[2] for rate, order in ((0.0, "psm"), (1.0, "spm"))]
    assert middles[0] == middles[1]


def test_labels_are_all_ids_or_the_middle_and_its_end():
    for one in samples(SOURCE, rate=0.5):
        assert one.piece.labels.tolist() == one.piece.ids.tolist()
    for one in samples(SOURCE, rate=0.5, loss="middle"):
        ids, labels = one.piece.ids.tolist(), one.piece.labels.tolist()
        masked = labels.count(IGNORE)
        assert labels == [IGNORE] * masked + ids[masked:]
        assert (masked == 0) == (one.order == "plain")
        if one.order == "psm":
            assert ids[masked - 1] == RULES.mid


def test_line_ends_are_those_of_inference():
    (one,) = samples("a = 1\r\nb = 2\r\n", rate=1.0, spm_rate=0.0)
    assert "".join(parts_of(one.piece.ids.tolist(), "psm")) == "a = 1\nb = 2\n"


def test_options_out_of_range_are_refused_together():
    with pytest.raises(Findings, match="--fim-rate") as caught:
        FimOptions(rate=1.5, spm_rate=-0.1, loss="none")
    assert "--fim-spm-rate" in str(caught.value)
    assert "--fim-loss" in str(caught.value)
    with pytest.raises(DataError, match="--fim-seed: got -1"):
        FimOptions(seed=-1)
