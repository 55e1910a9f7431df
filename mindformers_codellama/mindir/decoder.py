"""`MindIRDecoder`: the `Decoder` of generation over exported graphs, so that sampling, streaming and stopping are the suite's own.

It pads prompts and rows to what the graphs were exported for, keeps every row's length, and gives each input its place.
Shape letters: B rows of the graphs, R rows asked for (R <= B), T prompt positions, S positions of the export, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.backends.prompts import check_prompts, rows_are_full
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.mindir.manifest import ExportManifest
from mindformers_codellama.mindir.protocol import (
    ACTIVE_LENGTH,
    BATCH_INDEX,
    BLOCK_TABLES,
    FULL,
    INC,
    INPUT_IDS,
    VALID_LENGTH,
    Float32,
    MindIREngine,
    Signature,
)
from mindformers_codellama.model.inputs import check_token_ids

Int32 = NDArray[np.int32]
Fit = Callable[[int, int], tuple[int, int]]
"""Rows and positions needed to rows and positions of the graphs: at least as many of each."""

STEP = 64
"""Positions looked at by a graph of dynamic shapes grow by this: every size is another compiled shape."""


def any_size(rows: int, positions: int) -> tuple[int, int]:
    """What graphs of dynamic shapes take without gears: just these rows, positions rounded up to `STEP`."""
    return rows, -(-positions // STEP) * STEP


class MindIRDecoder:
    """Remembers one batch; `prefill` begins a new one. Implements `generation.protocol.Decoder`.

    Args:
        engine: loaded.
        fit_full: sizes of the graph that reads prompts, where the export left them free.
        fit_inc: of the graph that reads one token.
    """

    def __init__(self, engine: MindIREngine, *, fit_full: Fit = any_size, fit_inc: Fit = any_size) -> None:
        self._engine = engine
        self._manifest = engine.manifest
        self._graphs = {FULL: (engine.signature(FULL), fit_full), INC: (engine.signature(INC), fit_inc)}
        self._asked = 0
        self._pages: PagedRows | None = None
        self._lengths_B: Int32 = np.zeros(0, np.int32)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._manifest.model.vocab_size

    @property
    def max_length(self) -> int:
        """S."""
        return self._manifest.model.seq_length

    def prefill(self, tokens_BT: Int32, lengths_B: Int32) -> Float32:
        """Forget everything, read prompts, give logits after each one's last token.

        Args:
            tokens_BT: int32 `(R, T)`, right padded; the padding must be valid ids too.
            lengths_B: int32 `(R,)` in [1, T].

        Returns:
            float32 `(R, V)`.

        Raises:
            GenerationError: more rows than the graphs take, or a prompt longer than they do.
            TokenizerError: an id outside [0, V).
        """
        tokens_RT, lengths_R = check_prompts(tokens_BT, lengths_B, max_length=self.max_length, vocab_size=self.vocab_size)
        self._asked, longest = tokens_RT.shape
        self._lengths_B = lengths_R.copy()
        self._pages = PagedRows.of(self._manifest)
        return self._engine.prefill(self._inputs(FULL, tokens_RT, longest))[: self._asked]

    def step(self, tokens_B: Int32) -> Float32:
        """Append one token to every row; float32 `(R, V)` logits after it.

        A row that is full stays full: its last position is overwritten and its logits mean nothing.

        Raises:
            GenerationError: every row is full.
            TokenizerError: an id outside [0, V).
        """
        tokens_R = np.asarray(tokens_B, np.int32)
        assert tokens_R.shape == (self._asked,), "step takes one token for every row of prefill"
        lengths_R = self._lengths_B[: self._asked]
        if (lengths_R >= self.max_length).all():
            raise rows_are_full(self.max_length)
        check_token_ids(tokens_R, self.vocab_size, where="next tokens")
        self._lengths_B = np.minimum(lengths_R + 1, self.max_length)
        needed = int(self._lengths_B.max())
        return self._engine.decode(self._inputs(INC, tokens_R[:, None], needed))[: self._asked]

    def reorder(self, rows_B: Int32) -> None:
        """Exported graphs cannot move rows of their cache.

        Raises:
            GenerationError: rows would change places.
        """
        if not np.array_equal(rows_B, np.arange(self._asked)):
            raise GenerationError("num_beams", "exported graphs keep their cache in place: no beam search.", fix="use num_beams 1.")

    def _inputs(self, role: str, tokens_RC: Int32, needed: int) -> dict[str, NDArray[np.integer]]:
        """Every input of a graph by name, padded; the engine puts them in order.

        Args:
            role: which graph.
            tokens_RC: of the rows that were asked for.
            needed: positions of the longest row.
        """
        signature, fit = self._graphs[role]
        rows, positions = self._sizes(signature, fit, needed)
        width = 1 if role == INC else signature.input(INPUT_IDS).shape[1] or positions
        tokens_BC = np.full((rows, width), self._manifest.model.pad_token_id, np.int32)
        tokens_BC[: self._asked, : tokens_RC.shape[1]] = tokens_RC
        # a row nobody asked for is one padding token long: it must be something, and its logits are dropped
        idle = np.ones(rows - self._asked, np.int32)
        self._lengths_B = np.concatenate([self._lengths_B[: self._asked], idle])
        given: dict[str, NDArray[np.integer]] = {INPUT_IDS: tokens_BC, VALID_LENGTH: self._lengths_B.copy()}
        for spec in signature.inputs[2:]:
            if spec.name == BATCH_INDEX:
                given[spec.name] = np.arange(rows, dtype=np.int64)
            elif spec.name == ACTIVE_LENGTH:
                given[spec.name] = np.zeros(spec.shape[0] or positions, np.int64)
            else:
                assert self._pages is not None, f"{spec} needs a paged cache"
                self._pages.hold(self._lengths_B)
                given[spec.name] = self._pages.tables_of(rows) if spec.name == BLOCK_TABLES else self._pages.slots(self._lengths_B, width)
        return given

    def _sizes(self, signature: Signature, fit: Fit, needed: int) -> tuple[int, int]:
        """(rows, positions) of a call: the exported ones, else what `fit` gives."""
        fixed = signature.input(INPUT_IDS).shape[0]
        if fixed is not None and self._asked > fixed:
            fix = f"give --batch_size {fixed} at most, or export with a larger --batch_size."
            raise GenerationError("batch", f"{self._asked} prompts at once, but the graphs were exported for {fixed}.", fix=fix)
        rows, positions = fit(self._asked if fixed is None else fixed, needed)
        return fixed or rows, min(positions, self.max_length)


class PagedRows:
    """Which blocks each row has: taken one after the other as rows grow; block 0 belongs to nobody.

    Args:
        positions: S.
        block_size: positions of a block.
        blocks: in all, block 0 included.
    """

    def __init__(self, *, positions: int, block_size: int, blocks: int) -> None:
        self.block_size, self.blocks = block_size, blocks
        self._width = -(-positions // block_size)
        self._rows: list[list[int]] = []
        self._next = 1

    @classmethod
    def of(cls, manifest: ExportManifest) -> PagedRows | None:
        """For a batch of an export; None when its cache is not paged."""
        if not manifest.kv.block_size:
            return None
        return cls(positions=manifest.model.seq_length, block_size=manifest.kv.block_size, blocks=manifest.kv.blocks)

    def hold(self, lengths_B: Int32) -> None:
        """Take the blocks that rows of these lengths need.

        Raises:
            GenerationError: there are too few.
        """
        for row, length in enumerate(lengths_B):
            if row == len(self._rows):
                self._rows.append([])
            while len(self._rows[row]) * self.block_size < length:
                if self._next >= self.blocks:
                    problem = f"its {self.blocks - 1} blocks of {self.block_size} positions are all in use."
                    raise GenerationError("cache", problem, fix="shorten the prompts, or export with more blocks: --paged-blocks.")
                self._rows[row].append(self._next)
                self._next += 1

    def tables_of(self, rows: int) -> Int32:
        """`block_tables`, int32 `(B, S / block size)`; 0 where a row has none."""
        tables = np.zeros((rows, self._width), np.int32)
        for row, blocks in enumerate(self._rows[:rows]):
            tables[row, : len(blocks)] = blocks
        return tables

    def slots(self, lengths_B: Int32, width: int) -> Int32:
        """`slot_mapping` of a call that ends at `lengths_B`, int32 `(B * C,)`; -1 for padding.

        Args:
            lengths_B: tokens of each row, those of this call included.
            width: C, tokens of this call, right padded; 1 is the last token alone.
        """
        first_B = lengths_B - 1 if width == 1 else np.zeros_like(lengths_B)
        places_BC = first_B[:, None] + np.arange(width, dtype=np.int32)
        columns_BC = np.minimum(places_BC // self.block_size, self._width - 1)
        blocks_BC = np.take_along_axis(self.tables_of(len(lengths_B)), columns_BC, axis=1)
        slots_BC = blocks_BC * self.block_size + places_BC % self.block_size
        return np.where(places_BC < lengths_B[:, None], slots_BC, -1).astype(np.int32).reshape(-1)
