"""Promises of infilling prompts for any text: nothing across the cursor, what is kept is nearest, never too long, healing exact."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama import infilling_prompt_ids
from mindformers_codellama.errors import ConfigError, GenerationError
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.healing import Beginning, piece_index, take_off
from mindformers_codellama.text.holes import Hole, Place, hole_at, parse_place, split_marks
from mindformers_codellama.text.infilling import line_feeds, prefix_ids
from mindformers_codellama.text.infilling_fit import Snippet, context_ids, fit_parts
from mindformers_codellama.text.infilling_prompt import FRAME, infilling_prompt

TINY = AutoTokenizer.from_pretrained("codellama_tiny")
INDEX = piece_index(TINY)
# SentencePiece writes a space as U+2581, so that one character cannot come back as itself
CODE = st.sampled_from(
    ["def f(self):", "\n", "\n    ", "\n\n", "    ", "import ", "os", " = ", "(", ")", "[0]", "\t", "# \u6f22", "\U0001f600"]
)
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=6)
TEXTS = st.lists(st.one_of(CODE, PLAIN), max_size=12).map("".join)
LONG = st.lists(CODE, min_size=20, max_size=60).map("".join)


def parts_of(ids: list[int], suffix_first: bool) -> tuple[list[int], list[int]]:
    """Ids of prefix and suffix in a prompt without context."""
    suf, mid = ids.index(TINY.suffix_id), ids.index(TINY.middle_id)
    return (ids[mid + 1 :], ids[3:mid]) if suffix_first else (ids[2:suf], ids[suf + 1 : mid])


@given(TEXTS, TEXTS, st.booleans())
def test_both_parts_come_back_exactly_so_no_token_lies_across_the_cursor(prefix, suffix, suffix_first):
    before, behind = parts_of(infilling_prompt_ids(TINY, prefix, suffix, suffix_first=suffix_first), suffix_first)
    wanted = line_feeds(prefix, suffix)
    assert (TINY.decode_pieces(before), TINY.decode_infilling(behind)) == wanted
    assert (prefix, suffix) == wanted or "\r" in prefix + suffix


@given(TEXTS, TEXTS, st.booleans())
def test_without_healing_and_limits_the_prompt_is_the_exact_one(prefix, suffix, suffix_first):
    prompt = infilling_prompt(TINY, prefix, suffix, suffix_first=suffix_first, heal=False)
    assert prompt.ids == infilling_prompt_ids(TINY, prefix, suffix, suffix_first=suffix_first)
    assert (prompt.healed, prompt.trimmed) == ("", False)


@settings(max_examples=60)
@given(st.one_of(TEXTS, LONG), st.one_of(TEXTS, LONG), st.integers(1, 80))
def test_a_fitted_prompt_is_short_enough_and_keeps_what_is_nearest(prefix, suffix, room):
    before, behind = fit_parts(TINY, prefix, suffix, room)
    needed = len(infilling_prompt_ids(TINY, before, behind)) - FRAME
    assert needed <= room
    assert prefix.endswith(before)
    assert suffix.startswith(behind)
    whole = len(infilling_prompt_ids(TINY, prefix, suffix)) - FRAME
    if whole <= room and "\r" not in prefix + suffix:
        assert (before, behind) == (prefix, suffix)


@pytest.mark.parametrize("room", range(12, 100, 7))
def test_one_more_line_would_not_fit(room):
    lines = [f"value_{number} = {number}\n" for number in range(40)]
    text = "".join(lines)
    before, _ = fit_parts(TINY, text, "", room)
    _, behind = fit_parts(TINY, "", text, room)
    kept = before.count("\n"), behind.count("\n")
    assert len(prefix_ids(TINY, "".join(lines[-kept[0] - 1 :]))) > room
    assert len(TINY.encode_infilling("".join(lines[: kept[1] + 1]))) > room


def test_cut_parts_begin_and_end_at_line_ends_where_that_costs_little():
    lines = "".join(f"value_{number} = {number}\n" for number in range(40))
    before, behind = fit_parts(TINY, lines, lines, 120)
    assert before.startswith("value_")
    assert behind.endswith("\n")
    assert len(before) > 2 * len(behind) > 0


def test_a_short_suffix_leaves_its_share_to_the_prefix_and_the_other_way_round():
    long = "a = b\n" * 200
    alone = len(fit_parts(TINY, long, "", 100)[0])
    assert alone > 1.2 * len(fit_parts(TINY, long, long, 100)[0])
    assert len(fit_parts(TINY, "", long, 100)[1]) > 3 * len(fit_parts(TINY, long, long, 100)[1])


@given(TEXTS)
def test_healing_takes_off_an_end_that_a_longer_piece_begins_with_and_nothing_else(prefix):
    ids = prefix_ids(TINY, prefix)
    stay, healed = take_off(TINY, ids)
    assert ids[: len(stay)] == stay
    assert TINY.decode_infilling(stay) + healed == TINY.decode_infilling(ids)
    if healed:
        pieces = [TINY.convert_ids_to_tokens(index).replace("\u2581", " ") for index in range(260, TINY.vocab_size - 4)]
        assert any(piece.startswith(healed) and piece != healed for piece in pieces)


@given(TEXTS, st.data())
def test_any_allowed_tokens_write_the_healed_text_and_then_are_free(prefix, data):
    _, healed = take_off(TINY, prefix_ids(TINY, prefix))
    if not healed:
        return
    beginning, chosen = Beginning(INDEX, healed), []
    while not beginning.done:
        chosen.append(data.draw(st.sampled_from(beginning.allowed())))
        beginning.take(chosen[-1])
    assert b"".join(INDEX.bytes_of[token] for token in chosen).startswith(healed.encode())


def test_healing_lets_the_whole_word_be_chosen():
    stay, healed = take_off(TINY, prefix_ids(TINY, "x = 1\nimpor"))
    word = next(index for index in Beginning(INDEX, healed).allowed() if TINY.convert_ids_to_tokens(index).endswith("import"))
    assert TINY.decode_pieces([*stay, word]) == "x = 1\nimport"


@pytest.mark.parametrize("prefix", ["", "x = 1\n", "\U0001f600", "x\u6f22"])
def test_nothing_is_taken_off_at_a_line_end_or_behind_bytes(prefix):
    assert take_off(TINY, prefix_ids(TINY, prefix))[1] == ""


@given(TEXTS, TEXTS, st.integers(FRAME + 1, 90), st.booleans())
def test_a_prompt_with_other_files_is_never_longer_than_its_room(prefix, suffix, room, suffix_first):
    snippets = [Snippet("a.py", "class A:\n    pass\n" * 3), Snippet("b.c", "int b;\r\n" * 9)]
    prompt = infilling_prompt(TINY, prefix, suffix, suffix_first=suffix_first, room=room, context=snippets)
    assert len(prompt.ids) <= room
    assert prompt.ids[0] == TINY.bos_token_id
    assert prompt.ids.count(TINY.prefix_id) == 1


def test_other_files_stand_before_the_prefix_token_the_most_helpful_nearest():
    snippets = [Snippet("near.py", "n = 1\n"), Snippet("far.js", "f = 2")]
    prompt = infilling_prompt(TINY, "x", "y", context=snippets, heal=False)
    place = prompt.ids.index(TINY.prefix_id)
    assert prompt.ids[1:place] == [*prefix_ids(TINY, "// far.js\nf = 2\n"), *prefix_ids(TINY, "# near.py\nn = 1\n")]
    assert [prompt.ids[0], *prompt.ids[place:]] == infilling_prompt_ids(TINY, "x", "y")


def test_a_long_file_leaves_other_files_a_quarter_and_a_short_one_the_rest():
    block = Snippet("other.py", "\n".join(f"name_{number} = {number}" for number in range(100)))
    long = "a = b\n" * 300
    for prefix, least, most in ((long, 30, 50), ("x", 150, 200)):
        ids = infilling_prompt(TINY, prefix, "", room=200, context=[block]).ids
        assert least <= ids.index(TINY.prefix_id) - 1 <= most
    assert context_ids(TINY, [block], 3) == []


def test_no_room_is_refused():
    with pytest.raises(GenerationError, match="needs more than 4 positions, there is room for 4"):
        infilling_prompt(TINY, "a", "b", room=4)


@given(TEXTS, st.data())
def test_every_character_of_a_file_has_a_place_and_filling_it_changes_nothing_else(text, data):
    lines = text.split("\n")
    line = data.draw(st.integers(1, len(lines)))
    own = lines[line - 1]
    last = len(own) + 1 - (own.endswith("\r") and line < len(lines))
    hole = hole_at(text, Place("f", line, data.draw(st.integers(1, last))))
    assert hole.prefix + hole.suffix == text
    assert hole.prefix.count("\n") == line - 1
    assert hole.filled("NEW") == hole.prefix + "NEW" + hole.suffix
    with pytest.raises(ConfigError, match=f"has no column .* from 1 to {last}"):
        hole_at(text, Place("f", line, last + 1))


def test_places_and_marks_are_read_or_refused():
    assert parse_place("a:b/c.py:3:14") == Place("a:b/c.py", 3, 14)
    assert parse_place("a:b/c.py:3") == Place("a:b/c.py", 3, None)
    assert parse_place("a.py") is parse_place("a.py:x") is parse_place(":3") is None
    assert hole_at("ab\r\nc", Place("f", 1, None)) == Hole("ab", "\r\nc")
    assert hole_at("ab\n    \nc", Place("f", 2, None)) == Hole("ab\n    ", "\nc")
    assert hole_at("ab", Place("f", 1, None)) == Hole("ab", "")
    with pytest.raises(ConfigError, match=r"f:9: there is no line 9"):
        hole_at("a\nb", Place("f", 9, None))
    with pytest.raises(ConfigError, match=r"f:3:1: there is no line 3. Fix: write a line from 1 to 2"):
        hole_at("a\nb", Place("f", 3, 1))
    assert hole_at("a\r\nb", Place("f", 1, 2)) == Hole("a", "\r\nb")
    with pytest.raises(ConfigError, match="line 1 has no column 3. Fix: write a column from 1 to 2"):
        hole_at("a\r\nb", Place("f", 1, 3))
    assert split_marks("a<FILL>b<FILL>") == ["a", "b", ""]
    with pytest.raises(ConfigError, match="has no mark @@"):
        split_marks("a<FILL>", "@@")
    assert Hole("a\r\nb", "\r\n").line_end == "\r\n"
    assert Hole("a\nb\r\n", "\n").line_end == "\n"


def test_what_is_filled_in_inside_a_line_end_stands_before_it():
    assert Hole("a\r", "\nb").filled("x") == "ax\r\nb"
    assert Hole("a\r", "b").filled("x") == "a\rxb"
