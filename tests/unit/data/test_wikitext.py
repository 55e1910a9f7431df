"""The streaming clean-up equals MindFormers' whole-file clean-up, wherever the pieces are cut."""

import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.data.wikitext import clean, paragraphs

sys.path.insert(0, str(Path(__file__).parent))
from oracle_rows import clean_wiki, wiki_paragraphs

marks = st.sampled_from([*"s'/1@-,.:;!?()[]{}\"=\u00b0\nNa \u3000\t", "/' 2/", " @,@ ", "= = = = ="])


def cut(text, sizes):
    pieces, at, number = [], 0, 0
    while at < len(text):
        size = sizes[number % len(sizes)]
        pieces.append(text[at : at + size])
        at, number = at + size, number + 1
    return pieces


@settings(max_examples=800, deadline=None)
@given(st.lists(marks, max_size=60).map("".join), st.lists(st.integers(1, 7), min_size=1, max_size=9))
def test_cleaning_in_pieces_equals_cleaning_the_whole(text, sizes):
    assert "".join(clean(cut(text, sizes))) == clean_wiki(text)
    assert list(paragraphs(clean(cut(text, sizes)))) == wiki_paragraphs(text)


def test_an_unclosed_bracket_holds_text_back_but_loses_none():
    assert "".join(clean(iter(["a ( b", " c", " ) d ( e"]))) == "a (b c) d ( e"
