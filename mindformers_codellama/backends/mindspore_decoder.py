"""`MindSporeDecoder`: the `Decoder` of generation over a `LlamaNetwork`.

Every distinct shape is one compiled graph, so lengths are rounded up to a few sizes: cache positions T
to 256 or powers of two from 1024, prompts to chunks of 32 or 128 tokens, uncached rows to powers of two.
Shape letters: B rows, C tokens of a chunk, T cache positions, V vocabulary.
"""

from __future__ import annotations

from collections import OrderedDict

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.backends.cells import CachedForward, GrowCache, ReorderCache, UncachedForward
from mindformers_codellama.backends.prompts import check_prompts, rows_are_full
from mindformers_codellama.model.inputs import check_token_ids
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.runtime.context import is_eager

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

SHORT_CHUNK = 32
LONG_CHUNK = 128
SHORT_CACHE = 256
LONG_CACHE = 1024
LANES_KEPT = 6
"""Cached graphs (one per B and T) kept for the next call; the least recently used goes first."""


def cache_positions(needed: int, max_length: int) -> int:
    """T for rows of `needed` tokens: 256, 1024, 2048, 4096, ..., at most `max_length` rounded up to whole chunks.

    Every token attends over all of T, so long caches only double; a short one is cheap and saves a compilation.
    """
    limit = -(-max_length // LONG_CHUNK) * LONG_CHUNK
    size = SHORT_CACHE
    while size < needed:
        size = max(2 * size, LONG_CACHE)
    return min(size, limit)


def row_positions(needed: int, max_length: int) -> int:
    """Row length without a cache: 32, 64, 128, ..., at most `max_length`."""
    size = SHORT_CHUNK
    while size < needed:
        size *= 2
    return min(size, max_length)


def chunks(length: int) -> list[tuple[int, int]]:
    """(start, size) of the pieces a prompt of `length` tokens is read in; only the last reaches past its end."""
    pieces = []
    start = 0
    while start < length:
        size = SHORT_CHUNK if length - start <= SHORT_CHUNK else LONG_CHUNK
        pieces.append((start, size))
        start += size
    return pieces


class MindSporeDecoder:
    """Remembers one batch; `prefill` begins a new one. Implements `generation.protocol.Decoder`.

    Token ids are checked here: MindSpore's gather reads another row for a negative one. Rows are right padded
    and only their lengths count, so a prompt may hold the padding id.

    Args:
        network: its weights are shared, not copied. When it is cut over ranks, every rank makes the same calls and gets
            the same logits; positions are not cut.
        use_past: keep keys and values (fast); False reads the whole rows again at every step.
    """

    def __init__(self, network: LlamaNetwork, *, use_past: bool = True) -> None:
        part = network.part
        assert (part.first, part.last, part.sequence) == (True, True, False), part
        self._network = network
        self._use_past = use_past
        self._memory: CachedRows | UncachedRows
        self._memory = CachedRows(network) if use_past else UncachedRows(network)
        self._weights = self._weight_places()

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._network.config.vocab_size

    @property
    def max_length(self) -> int:
        """Positions available to one row, prompt and answer together: the model's `seq_length`."""
        return self._network.config.seq_length

    def prefill(self, tokens_BT: Int32, lengths_B: Int32) -> Float32:
        """Forget everything, read prompts, give logits after each one's last token.

        Args:
            tokens_BT: int32 `(B, T)`, right padded; the padding must be valid ids too.
            lengths_B: int32 `(B,)` in [1, T].

        Returns:
            float32 `(B, V)`.

        Raises:
            GenerationError: a prompt longer than `max_length`.
            TokenizerError: an id outside [0, V).
        """
        tokens_BT, lengths_B = check_prompts(tokens_BT, lengths_B, max_length=self.max_length, vocab_size=self.vocab_size)
        self._drop_stale_graphs()
        return self._memory.prefill(tokens_BT, lengths_B)

    def step(self, tokens_B: Int32) -> Float32:
        """Append one token to every row; float32 `(B, V)` logits after it.

        A row that is full stays full: its last position is overwritten and its logits mean nothing.

        Raises:
            GenerationError: every row is full.
            TokenizerError: an id outside [0, V).
        """
        tokens_B = np.asarray(tokens_B, np.int32)
        lengths_B = self._memory.lengths_B
        assert tokens_B.shape == lengths_B.shape, "step takes one token for every row of prefill"
        if (lengths_B >= self.max_length).all():
            raise rows_are_full(self.max_length)
        check_token_ids(tokens_B, self.vocab_size, where="next tokens")
        return self._memory.step(tokens_B)

    def reorder(self, rows_B: Int32) -> None:
        """Row i becomes a copy of what row `rows_B[i]` was."""
        self._memory.reorder(np.asarray(rows_B, np.int32))

    def _drop_stale_graphs(self) -> None:
        """Compile anew when weights were replaced.

        In PyNative mode (MindSpore 2.9 and 2.10, CPU) a compiled graph goes on reading the old values after
        `Parameter.set_data`, as `load_param_into_net` does; in graph mode it reads the new ones.
        """
        places = self._weight_places()
        if places != self._weights:
            self._weights = places
            self._memory = CachedRows(self._network) if self._use_past else UncachedRows(self._network)

    def _weight_places(self) -> tuple[int, ...]:
        return tuple(parameter.data_ptr() for parameter in self._network.get_parameters()) if is_eager() else ()


def _int32(values: Int32) -> ms.Tensor:
    return ms.Tensor(np.ascontiguousarray(values, np.int32))


class CachedRows:
    """Rows whose keys and values are kept; one `CachedForward` per (B, T)."""

    def __init__(self, network: LlamaNetwork) -> None:
        self._network = network
        self._max_length = network.config.seq_length
        self._lanes: OrderedDict[tuple[int, int], CachedForward] = OrderedDict()
        self._reorders: dict[tuple[int, int], ReorderCache] = {}
        self._grows: dict[tuple[int, int], GrowCache] = {}
        self._lane: CachedForward
        self._zeros_B1: ms.Tensor
        self.lengths_B: Int32 = np.zeros(0, np.int32)

    def _lane_of(self, rows: int, positions: int) -> CachedForward:
        place = (rows, positions)
        if place not in self._lanes:
            self._lanes[place] = CachedForward(self._network, rows, positions)
            self._lanes[place].set_train(False)
        self._lanes.move_to_end(place)
        while len(self._lanes) > LANES_KEPT:
            dropped, _ = self._lanes.popitem(last=False)
            self._reorders.pop(dropped, None)
            # a kept copier would hold the dropped cache alive, or write into it instead of its successor
            self._grows = {key: grow for key, grow in self._grows.items() if key[0] != dropped[0]}
        return self._lanes[place]

    def prefill(self, tokens_BT: Int32, lengths_B: Int32) -> Float32:
        """Read prompts chunk by chunk; a row's logits come from the chunk its last token is in."""
        rows, longest = tokens_BT.shape
        pieces = chunks(longest)
        width = sum(pieces[-1])
        padded = np.zeros((rows, width), np.int32)
        padded[:, :longest] = tokens_BT
        self._lane = self._lane_of(rows, cache_positions(width, self._max_length))
        self._zeros_B1 = _int32(np.zeros((rows, 1), np.int32))
        self.lengths_B = lengths_B.copy()
        logits_BV = np.empty((rows, self._network.config.vocab_size), np.float32)
        for start, size in pieces:
            order_BC = np.broadcast_to(np.arange(start, start + size, dtype=np.int32), (rows, size))
            last_B = lengths_B - 1 - start
            here_B = (last_B >= 0) & (last_B < size)
            last_B1 = _int32(np.clip(last_B, 0, size - 1)[:, None])
            chunk_BV = self._lane(_int32(padded[:, start : start + size]), _int32(order_BC), last_B1).asnumpy()
            logits_BV[here_B] = chunk_BV[here_B]
        return logits_BV

    def step(self, tokens_B: Int32) -> Float32:
        """One more position of every row; full rows overwrite their last one."""
        positions_B = np.minimum(self.lengths_B, self._max_length - 1)
        if int(positions_B.max()) >= self._lane.positions:
            self._grow(int(positions_B.max()) + 1)
        logits_BV: Float32 = self._lane(_int32(tokens_B[:, None]), _int32(positions_B[:, None]), self._zeros_B1).asnumpy()
        self.lengths_B = self.lengths_B + 1
        return logits_BV

    def _grow(self, needed: int) -> None:
        source = self._lane
        target = self._lane_of(source.rows, cache_positions(needed, self._max_length))
        place = (source.rows, source.positions)
        if place not in self._grows:
            self._grows[place] = GrowCache(source, target)
        self._grows[place](self._zeros_B1)
        self._lane = target

    def reorder(self, rows_B: Int32) -> None:
        """Move whole cache rows."""
        if np.array_equal(rows_B, np.arange(len(rows_B))):
            return
        place = (self._lane.rows, self._lane.positions)
        if place not in self._reorders:
            self._reorders[place] = ReorderCache(self._lane)
        self._reorders[place](_int32(rows_B))
        self.lengths_B = self.lengths_B[rows_B]


class UncachedRows:
    """Rows kept as token ids only."""

    def __init__(self, network: LlamaNetwork) -> None:
        self._network = network
        self._max_length = network.config.seq_length
        self._forwards: dict[int, UncachedForward] = {}
        self._tokens_BT: Int32 = np.zeros((0, 0), np.int32)
        self.lengths_B: Int32 = np.zeros(0, np.int32)

    def prefill(self, tokens_BT: Int32, lengths_B: Int32) -> Float32:
        """Keep the prompts and read them."""
        self._tokens_BT = np.zeros((len(lengths_B), self._max_length), np.int32)
        self._tokens_BT[:, : tokens_BT.shape[1]] = tokens_BT
        self.lengths_B = lengths_B.copy()
        return self._forward()

    def step(self, tokens_B: Int32) -> Float32:
        """Append and read everything again."""
        rows = np.arange(len(tokens_B))
        self._tokens_BT[rows, np.minimum(self.lengths_B, self._max_length - 1)] = tokens_B
        self.lengths_B = self.lengths_B + 1
        return self._forward()

    def _forward(self) -> Float32:
        lengths_B = np.minimum(self.lengths_B, self._max_length)
        rows = len(lengths_B)
        if rows not in self._forwards:
            self._forwards[rows] = UncachedForward(self._network, rows)
            self._forwards[rows].set_train(False)
        tokens_BC = self._tokens_BT[:, : row_positions(int(lengths_B.max()), self._max_length)]
        logits_BV: Float32 = self._forwards[rows](_int32(tokens_BC), _int32(lengths_B[:, None] - 1)).asnumpy()
        return logits_BV

    def reorder(self, rows_B: Int32) -> None:
        """Move rows of ids."""
        self._tokens_BT = self._tokens_BT[rows_B]
        self.lengths_B = self.lengths_B[rows_B]
