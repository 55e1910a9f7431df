"""Pages: counts never go wrong whatever is taken, shared, published and released."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.backends.pages import START, PageAllocator, page_digests


def allocator(kept=4, limit=8):
    pages = PageAllocator(kept)
    pages.limit = limit
    return pages


def test_the_lowest_free_page_is_given_first():
    pages = allocator()
    taken = [pages.take() for _ in range(4)]
    for page in (taken[2], taken[0]):
        pages.release(page)
    assert (taken, pages.take(), pages.take(), pages.take()) == ([0, 1, 2, 3], 0, 2, 4)


def test_a_published_page_is_found_after_its_holder_left_it():
    pages = allocator()
    page = pages.take()
    pages.publish(page, b"a")
    pages.release(page)
    assert pages.waiting == 1
    assert pages.take() != page
    assert pages.find([b"a", b"b"]) == [page]
    assert (pages.holders(page), pages.waiting) == (1, 0)


def test_only_the_longest_unbroken_beginning_is_found():
    pages = allocator()
    for digest in (b"a", b"c"):
        pages.publish(pages.take(), digest)
    assert pages.find([b"a", b"b", b"c"]) == [0]


def test_the_least_recently_left_page_is_given_up_first():
    pages = allocator(kept=2)
    for digest in (b"a", b"b", b"c"):
        pages.publish(page := pages.take(), digest)
        pages.share(page)
    for page in (1, 0, 2, 1, 0, 2):
        pages.release(page)
    assert pages.waiting == 2
    assert not pages.find([b"b"])
    assert pages.find([b"a"]) == [0]


def test_kept_pages_are_used_when_no_other_is_left():
    pages = allocator(limit=2)
    pages.publish(pages.take(), b"a")
    pages.release(0)
    assert [pages.take(), pages.take()] == [1, 0]
    assert not pages.find([b"a"])


def test_forgetting_leaves_held_pages_held():
    pages = allocator()
    pages.publish(pages.take(), b"a")
    pages.publish(pages.take(), b"b")
    pages.release(1)
    pages.forget_all()
    assert (pages.find([b"a"]), pages.find([b"b"]), pages.holders(0), pages.take()) == ([], [], 1, 1)
    pages.release(0)
    assert pages.take() == 0


def test_a_digest_says_all_tokens_before_it():
    tokens = np.arange(12)
    first = page_digests(tokens, 4)
    assert len(first) == 3
    assert page_digests(tokens[:11], 4) == first[:2]
    assert page_digests(tokens[4:], 4, first[0]) == first[1:]
    assert page_digests(tokens[4:], 4) != first[1:]
    assert page_digests(np.r_[99, tokens[1:]], 4)[2] != first[2]
    assert page_digests([], 4, START) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "share", "release", "publish", "find", "forget"]), st.integers(0, 20)), max_size=60))
def test_holders_are_counted_right_through_any_history(history):
    pages, held, known = allocator(kept=3, limit=100), [], {}
    for action, number in history:
        page = held[number % len(held)] if held else None
        if action == "take":
            page = pages.take()
            assert page not in held
            held.append(page)
            known = {digest: owner for digest, owner in known.items() if owner != page}
        elif action == "find":
            found = pages.find([bytes([number])])
            assert found in ([], [known.get(bytes([number]))])
            held += found
        elif action == "forget":
            pages.forget_all()
            known = {}
        elif page is None:
            continue
        elif action == "share":
            pages.share(page)
            held.append(page)
        elif action == "release":
            pages.release(page)
            held.remove(page)
        elif bytes([number]) not in known and page not in known.values():
            pages.publish(page, bytes([number]))
            known[bytes([number])] = page
        assert all(pages.holders(page) == held.count(page) for page in range(pages.size))
        assert pages.held == len(set(held))
        assert pages.waiting <= 3


def test_releasing_what_nobody_holds_is_a_mistake():
    pages = allocator()
    pages.release(pages.take())
    with pytest.raises(AssertionError, match="held by nobody"):
        pages.release(0)
