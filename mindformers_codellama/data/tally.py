"""Counts of a preparation, and the rows' largest id, collected while rows pass by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from mindformers_codellama.data.encode import IGNORE
from mindformers_codellama.data.records import NAMED, Refused, raise_refused
from mindformers_codellama.data.rows import PAD, Row


class Tally:
    """What happened to the records of one run.

    Args:
        skip_bad: count bad records instead of refusing them.
    """

    def __init__(self, *, skip_bad: bool) -> None:
        self.skip_bad = skip_bad
        self.counts: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.named_bad: list[Refused] = []
        self.masked: list[str] = []
        """Places of the first samples without a label."""
        self.max_token_id = -1
        self.sources: Counter[int] = Counter()
        """Records read from each input, by its number; repeats count again."""

    def refuse(self, refused: Refused) -> None:
        """Count a bad record; without `skip_bad` raise once NAMED of them are known."""
        self.bad[refused.reason] += 1
        self.counts["records skipped"] += 1
        if len(self.named_bad) < NAMED:
            self.named_bad.append(refused)
        if len(self.named_bad) == NAMED:
            self.raise_bad()

    def raise_bad(self) -> None:
        """Raise the bad records found so far, unless they are to be skipped."""
        if not self.skip_bad:
            raise_refused(self.named_bad)

    def note_masked(self, where: str) -> None:
        """A sample has no label left."""
        self.counts["samples without a label"] += 1
        if len(self.masked) < NAMED:
            self.masked.append(where)

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows on, counting ids, labels and the largest id."""
        for row in rows:
            ids = row["input_ids"]
            self.max_token_id = max(self.max_token_id, int(ids.max()))
            self.counts["rows"] += 1
            self.counts["tokens"] += int(np.count_nonzero(ids != PAD))
            if "labels" in row:
                self.counts["tokens learned"] += int(np.count_nonzero(row["labels"][1:] != IGNORE))
            yield row
