"""Which page of a key/value pool belongs to whom: reference counts, and beginnings of prompts that are kept to be shared.

Only numbers of pages; the memory is somebody else's. A full page may be published under the digest of all tokens up to its end;
whoever begins with the same tokens takes it instead of computing it. A published page that nobody holds any more is kept for
later, and given up, the least recently used first, when more than `kept` are waiting or no other page is left.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

START = b""
"""Digest of no tokens."""


def page_digests(tokens: Sequence[int] | np.ndarray, page_size: int, start: bytes = START) -> list[bytes]:
    """Digest after each full page of the tokens: of that page's tokens and, through `start`, of all before."""
    numbers = np.ascontiguousarray(tokens, np.int32)
    digests = []
    for first in range(0, len(numbers) - page_size + 1, page_size):
        start = hashlib.blake2b(start + numbers[first : first + page_size].tobytes(), digest_size=16).digest()
        digests.append(start)
    return digests


class PageAllocator:
    """Pages by number from 0; the lowest free one first, so that a pool stays short.

    Args:
        kept: published pages without a holder that are kept at most.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._holders: list[int] = []
        self._free: list[int] = []
        self._page_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._waiting: OrderedDict[int, None] = OrderedDict()
        self.limit = 0
        """Pages there may be; the sum of what holders need at once must not be more."""

    @property
    def size(self) -> int:
        """Pages ever given out: a pool must have that many."""
        return len(self._holders)

    @property
    def held(self) -> int:
        """Pages somebody holds."""
        return self.size - len(self._free) - len(self._waiting)

    @property
    def waiting(self) -> int:
        """Published pages nobody holds."""
        return len(self._waiting)

    def holders(self, page: int) -> int:
        """How often a page is held."""
        return self._holders[page]

    def take(self) -> int:
        """A page of one's own: a free one, a new one, or one that was only kept."""
        if self._free:
            page = heapq.heappop(self._free)
        elif self.size < self.limit or not self._waiting:
            page = self.size
            self._holders.append(0)
        else:
            page, _ = self._waiting.popitem(last=False)
            self._forget(page)
        self._holders[page] = 1
        return page

    def share(self, page: int) -> None:
        """Hold a held page once more."""
        assert self._holders[page] > 0, f"page {page} is held by nobody"
        self._holders[page] += 1

    def release(self, page: int) -> None:
        """Hold a page once less."""
        assert self._holders[page] > 0, f"page {page} is held by nobody"
        self._holders[page] -= 1
        if self._holders[page]:
            return
        if page not in self._digest_of:
            heapq.heappush(self._free, page)
            return
        self._waiting[page] = None
        if len(self._waiting) > self._kept:
            oldest, _ = self._waiting.popitem(last=False)
            self._forget(oldest)
            heapq.heappush(self._free, oldest)

    def publish(self, page: int, digest: bytes) -> None:
        """Let others find a full page. Nothing happens when another one has the digest already."""
        assert self._holders[page] > 0, f"page {page} is held by nobody"
        if digest not in self._page_of and page not in self._digest_of:
            self._page_of[digest] = page
            self._digest_of[page] = digest

    def find(self, digests: Sequence[bytes]) -> list[int]:
        """Pages of the longest known beginning, each held once more now."""
        found = []
        for digest in digests:
            page = self._page_of.get(digest)
            if page is None:
                break
            self._waiting.pop(page, None)
            self._holders[page] += 1
            found.append(page)
        return found

    def forget_all(self) -> None:
        """Nothing published can be found any more; held pages stay held."""
        for page in self._waiting:
            heapq.heappush(self._free, page)
        self._waiting.clear()
        self._page_of.clear()
        self._digest_of.clear()

    def _forget(self, page: int) -> None:
        del self._page_of[self._digest_of.pop(page)]
