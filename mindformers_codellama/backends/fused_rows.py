"""`PagedRows`: the rows of a batch, their pages, and the pools of keys and values behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.backends.pages import START, PageAllocator, page_digests

Int32 = NDArray[np.int32]

KEPT_BYTES = 1 << 30
"""Memory of pages that nobody holds but that later prompts may begin with."""


@dataclass
class Row:
    """One row: what it has read, and the pages its keys and values are in."""

    pages: list[int] = field(default_factory=list)
    length: int = 0
    digest: bytes = START
    """Of the full pages."""
    tail: list[int] = field(default_factory=list)
    """Tokens behind the last full page."""

    def copy(self) -> Row:
        """The same with lists of its own."""
        return replace(self, pages=list(self.pages), tail=list(self.tail))


class PagedRows:
    """Rows over two pools that grow with use.

    Args:
        page_size: tokens of a page.
        page_shape: of one page in either pool.
        dtype: of the pools' elements.
        max_length: tokens of a row at most.
    """

    def __init__(self, page_size: int, page_shape: tuple[int, ...], dtype: np.dtype, max_length: int) -> None:
        self._page_size = page_size
        self._page_shape = page_shape
        self._dtype = dtype
        self._pages_per_row = -(-max_length // page_size)
        page_bytes = 2 * int(np.prod(page_shape)) * dtype.itemsize
        self.allocator = PageAllocator(kept=max(self._pages_per_row, KEPT_BYTES // page_bytes))
        self.rows: list[Row] = []
        self._fresh: set[int] = set()
        self.table: Int32 = np.zeros((0, 0), np.int32)
        self.keys, self.values = (np.zeros((0, *page_shape), dtype) for _ in range(2))
        self.pools: tuple[ms.Tensor, ms.Tensor]
        """The same memory, for the operator."""

    def begin(self, prompts: Sequence[Int32], *, shares: bool = True) -> list[int]:
        """Give up the rows there were and begin new ones that hold the prompts.

        With `shares` all of them must be computed in one pass, in this order: a row may begin with pages of one before it.
        Without it every position of every row is computed, and nobody will find them.

        Returns:
            First position of each row whose keys must be computed; what stands before it is known. Always below the length.
        """
        self._give_up()
        self.allocator.limit = max(self.allocator.limit, self._pages_per_row * (len(prompts) + 1))
        starts = []
        for tokens in prompts:
            self.rows.append(Row())
            starts.append(self._begin_row(self.rows[-1], tokens, shares))
        self._set_table()
        return starts

    def append(self, tokens: Sequence[int], rows: Sequence[int]) -> None:
        """Make room for one more token of each of some rows."""
        for token, index in zip(tokens, rows, strict=True):
            row = self.rows[index]
            place = row.length // self._page_size
            if place == len(row.pages):
                row.pages.append(self._take())
            elif self.allocator.holders(row.pages[place]) > 1:
                row.pages[place] = self._copy(row.pages[place])
            self.table[index, place] = row.pages[place]
            row.length += 1
            row.tail.append(int(token))

    def publish_full(self) -> None:
        """Let later prompts find the pages that steps have filled; call when their keys are computed."""
        for row in self.rows:
            if len(row.tail) == self._page_size:
                (row.digest,) = page_digests(row.tail, self._page_size, row.digest)
                row.tail = []
                self.allocator.publish(row.pages[-1], row.digest)

    def reorder(self, order: Sequence[int]) -> None:
        """Row i becomes a copy of what row `order[i]` was; pages are shared until one is written."""
        chosen = [self.rows[index].copy() for index in order]
        for row in chosen:
            for page in row.pages:
                self.allocator.share(page)
        self._give_up()
        self.rows = chosen
        self._set_table()

    def give_up_computed(self) -> None:
        """Forget every known beginning: the weights are others now."""
        self.allocator.forget_all()

    def abandon(self) -> None:
        """A pass failed: give up the rows and every known beginning, whose keys may never have been computed."""
        self.allocator.forget_all()
        self.begin([])

    def _begin_row(self, row: Row, tokens: Int32, shares: bool) -> int:
        size = self._page_size
        digests = page_digests(tokens, size)
        row.pages = pages = self.allocator.find(digests) if shares else []
        start = len(pages) * size
        if start == len(tokens):
            # The last token must be computed for its logits, into a page of the row's own. One that this pass will compute
            # cannot be copied yet.
            last = pages[-1]
            start -= size if last in self._fresh else 1
            pages[-1] = self._take() if last in self._fresh else self._copy(last)
            if last in self._fresh:
                self.allocator.release(last)
        while len(pages) * size < len(tokens):
            pages.append(self._take())
            self._fresh.add(pages[-1])
        for page, digest in zip(pages, digests if shares else (), strict=False):
            self.allocator.publish(page, digest)
        full = len(digests) * size
        row.length, row.digest = len(tokens), digests[-1] if digests else START
        row.tail = [int(token) for token in tokens[full:]]
        return start

    def _give_up(self) -> None:
        for row in self.rows:
            for page in reversed(row.pages):
                self.allocator.release(page)
        self.rows = []
        self._fresh = set()

    def _take(self) -> int:
        page = self.allocator.take()
        if page >= len(self.keys):
            try:
                self._make_pools(max(self.allocator.size, min(2 * len(self.keys), self.allocator.limit)))
            except BaseException:
                self.allocator.release(page)
                raise
        return page

    def _copy(self, page: int) -> int:
        """A page of one's own with the same content, in exchange for `page`."""
        own = self._take()
        self.keys[own] = self.keys[page]
        self.values[own] = self.values[page]
        self.allocator.release(page)
        return own

    def _make_pools(self, pages: int) -> None:
        """Longer pools; memory that is never touched is never used."""
        keys, values = (np.zeros((pages, *self._page_shape), self._dtype) for _ in range(2))
        keys[: len(self.keys)], values[: len(self.values)] = self.keys, self.values
        # all three at once: an interrupt must not leave some old and some new
        self.keys, self.values, self.pools = keys, values, (ms.Tensor.from_numpy(keys), ms.Tensor.from_numpy(values))

    def _set_table(self) -> None:
        self.table = np.full((len(self.rows), self._pages_per_row), -1, np.int32)
        for index, row in enumerate(self.rows):
            self.table[index, : len(row.pages)] = row.pages
        if len(self.rows):
            self.table_tensor = ms.Tensor.from_numpy(self.table)
