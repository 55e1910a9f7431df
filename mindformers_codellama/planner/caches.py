"""Generation: sizes of the compiled graphs and of the key/value caches, by the rules of `backends.mindspore_decoder`."""

from __future__ import annotations

from dataclasses import dataclass

from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.planner.index_tables import forward_tables
from mindformers_codellama.planner.rank_work import RankWork, rank_work

SHORT_CHUNK, LONG_CHUNK = 32, 128
SHORT_CACHE, LONG_CACHE = 256, 1024


@dataclass(frozen=True, kw_only=True)
class Caches:
    """What generation up to the longest text builds."""

    rows: int
    """B, prompts at once; copies of the model take turns at whole batches."""
    lengths: tuple[int, ...]
    """Positions of each cache in the order they are made (all are kept), or of each row length without caches."""
    use_past: bool
    """Keep keys and values; without, whole rows are read again for every token."""

    def largest(self, run: RunConfig, where: ModelLayout, stage: int) -> RankWork:
        """The largest graph: a long chunk of the prompt over the longest cache, or the longest rows."""
        length = self.lengths[-1]
        return rank_work(run, where, stage, rows=self.rows, queries=min(LONG_CHUNK, length) if self.use_past else length, keys=length)

    def bytes(self, work: RankWork) -> int:
        """Keys and values of every cache: 2 L B K H T c / degree each, one after the other as texts grow."""
        if not self.use_past:
            return 0
        per_position = 2 * work.layers * work.compute * self.rows * (work.keys // work.tokens)
        return per_position * sum(self.lengths)


def cache_plan(run: RunConfig, where: ModelLayout) -> Caches:
    """Caches of 256, 1024, 2048, ... positions, or rows of 32, 64, ... tokens, until the longest text fits."""
    rows = run.predict_batch_size or run.model.batch_size
    generation, longest = run.model.generation, where.config.seq_length
    needed = longest if generation.max_new_tokens else min(generation.max_length, longest)
    lengths = cache_lengths(needed, longest) if run.model.use_past else row_lengths(needed, longest)
    return Caches(rows=rows, lengths=lengths, use_past=run.model.use_past)


def cache_lengths(needed: int, longest: int) -> tuple[int, ...]:
    """Positions of the caches made on the way to `needed` tokens; none longer than `longest` in whole chunks."""
    limit = -(-longest // LONG_CHUNK) * LONG_CHUNK
    found = [SHORT_CACHE]
    while found[-1] < needed:
        found.append(max(2 * found[-1], LONG_CACHE))
    return tuple(dict.fromkeys(min(size, limit) for size in found))


def row_lengths(needed: int, longest: int) -> tuple[int, ...]:
    """Row lengths met on the way to `needed` tokens."""
    found = [SHORT_CHUNK]
    while found[-1] < needed:
        found.append(2 * found[-1])
    return tuple(dict.fromkeys(min(size, longest) for size in found))


def cache_tables(run: RunConfig, where: ModelLayout, stage: int, caches: Caches) -> int:
    """Index tables of all graphs: one per row length, or per cache one for single tokens and one each for short and long chunks."""

    def tables(queries: int, keys: int) -> int:
        return forward_tables(rank_work(run, where, stage, rows=caches.rows, queries=queries, keys=keys))

    if not caches.use_past:
        return sum(tables(length, length) for length in caches.lengths)
    return sum(tables(queries, length) for length in caches.lengths for queries in (1, SHORT_CHUNK, LONG_CHUNK))
