"""What runs exported graphs: the tensors a graph takes and gives, and the interface of an engine. Without MindSpore.

A model is exported as two graphs, `full` (reads prompts) and `inc` (reads one token of every row), or as one, `single`,
that does both. An engine runs them and keeps their key/value cache; padding, positions and sampling are its caller's work.
Shape letters: B rows, S positions of the export (`seq_length`), C tokens of a call, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.errors import GenerationError
from mindformers_codellama.model.inputs import check_token_ids

if TYPE_CHECKING:
    from mindformers_codellama.mindir.manifest import ExportManifest, KVCache

Float32 = NDArray[np.float32]
Inputs = Mapping[str, NDArray[np.integer]]
"""Arrays by name of the input."""

FULL, INC, SINGLE = "full", "inc", "single"
ROLES = (FULL, INC, SINGLE)
"""Which graph: for prompts, for one more token, or for both."""

INPUT_IDS = "input_ids"
"""int32 `(B, C)`: the tokens of this call, right padded; one per row in `inc`."""
VALID_LENGTH = "batch_valid_length"
"""int32 `(B,)`: how many tokens each row has, those of this call included. The last of them stands at position length - 1."""
BATCH_INDEX = "batch_index"
"""int64 `(B,)`: the row of the cache that each row uses: 0..B-1."""
ACTIVE_LENGTH = "zactivate_len"
"""int64 `(A,)`: zeros; only its length counts. A graph of dynamic shapes looks at the first A positions of the cache; A is at
least the longest `batch_valid_length`, and of a single graph at least C too."""
SLOT_MAPPING = "slot_mapping"
"""int32 `(B * C,)`: block * block size + offset that each token's keys go to; -1 for padding."""
BLOCK_TABLES = "block_tables"
"""int32 `(B, S / block size)`: the blocks of each row in order; what is not used is 0."""
LOGITS = "logits"
"""float32 `(B, V)`: after the last token of each row."""

STATIC_INPUTS = (INPUT_IDS, VALID_LENGTH, BATCH_INDEX, ACTIVE_LENGTH)
PAGED_FULL_INPUTS = (INPUT_IDS, VALID_LENGTH, SLOT_MAPPING)
PAGED_INC_INPUTS = (INPUT_IDS, VALID_LENGTH, BLOCK_TABLES, SLOT_MAPPING)
"""Order of the inputs as MindFormers 1.0 exports them; graphs take them by position."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    dtype: str
    """numpy's word: `int32`, `int64`, `float32`."""
    shape: tuple[int | None, ...]
    """None where a graph of dynamic shapes takes any size."""

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape may be given."""
        return len(shape) == len(self.shape) and all(own is None or own == given for own, given in zip(self.shape, shape, strict=True))

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join('any' if size is None else str(size) for size in self.shape)})"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Inputs and outputs of a graph in their order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def input(self, name: str) -> TensorSpec:
        """The input of that name; it must be there."""
        return next(spec for spec in self.inputs if spec.name == name)


class MindIREngine(Protocol):
    """Runs the graphs of one rank of an export directory. Of several ranks, all make the same calls at the same time."""

    @property
    def name(self) -> str:
        """`graph` or `lite`."""

    @property
    def manifest(self) -> ExportManifest:
        """What the export directory says about itself; checked."""

    def load(self) -> None:
        """Check every file of this rank against the manifest, read the graphs, and make them ready to run. Call it once, first.

        Raises:
            CheckpointError: files that are missing, damaged, swapped, of another rank or model.
            EnvironmentFault: this process cannot run them: a missing package, another device, no job of ranks.
        """

    def signature(self, role: str) -> Signature:
        """Of the graph that `prefill` (role `full`) or `decode` (role `inc`) runs; the same one when there is a single graph."""

    def prefill(self, inputs: Inputs) -> Float32:
        """Forget the rows before, read prompts; float32 `(B, V)` after each one's last token.

        Raises:
            GenerationError, TokenizerError: inputs that are not those of the signature.
        """

    def decode(self, inputs: Inputs) -> Float32:
        """Read one more token of every row of the last `prefill`; float32 `(B, V)`.

        Raises:
            GenerationError, TokenizerError: inputs that are not those of the signature, or no prefill before.
        """

    def reset(self) -> None:
        """Forget all rows: the caches hold zeros, as after `load`."""


def check_inputs(
    signature: Signature, inputs: Inputs, *, where: str, seq_length: int, vocab_size: int, kv: KVCache | None = None
) -> list[NDArray[np.integer]]:
    """The arrays in the order of the signature, once all of them are what it says.

    MindSpore itself would take int64 where int32 is meant, and read past the end of the cache for a length that is too large.

    Args:
        signature: of the graph that is to run.
        inputs: as a caller gives them.
        where: names the graph in an error.
        seq_length: S, positions of the cache.
        vocab_size: V.
        kv: the cache, when it is paged.

    Raises:
        GenerationError: an input that is missing, unknown, of another type or shape, or lengths outside [1, S].
        TokenizerError: an id outside [0, V).
    """
    names = [spec.name for spec in signature.inputs]
    if set(inputs) != set(names):
        problem = f"takes {', '.join(names)}; got {', '.join(inputs) or 'nothing'}."
        raise GenerationError(where, problem, fix="give exactly the inputs of the signature.")
    for spec in signature.inputs:
        given = inputs[spec.name]
        if not isinstance(given, np.ndarray) or given.dtype.name != spec.dtype or not spec.accepts(given.shape):
            found = f"{given.dtype.name} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
            raise GenerationError(where, f"input {spec} got {found}.", fix="convert it, or export with other shapes (docs/export.md).")
    lengths_B, ids_BC = inputs[VALID_LENGTH], inputs[INPUT_IDS]
    _check_lengths(where, ids_BC, lengths_B, seq_length)
    _check_places(where, inputs, seq_length)
    if SLOT_MAPPING in inputs and kv is not None:
        _check_slots(where, inputs, kv)
    check_token_ids(ids_BC, vocab_size, where=f"{where}: {INPUT_IDS}")
    return [inputs[name] for name in names]


def _check_lengths(where: str, ids_BC: NDArray[np.integer], lengths_B: NDArray[np.integer], seq_length: int) -> None:
    tokens = ids_BC.shape[1]
    if not 1 <= tokens <= seq_length:
        problem = f"input {INPUT_IDS} has {tokens} positions per row; the graphs were exported for 1 to {seq_length}."
        raise GenerationError(where, problem, fix="shorten the prompt, or export with a larger seq_length.")
    # more than one token per row is a prompt, and all of it is here
    limit = seq_length if tokens == 1 else tokens
    bad = [(row, int(length)) for row, length in enumerate(lengths_B) if not 1 <= length <= limit]
    if bad:
        problem = f"input {VALID_LENGTH} of row {bad[0][0]} is {bad[0][1]}; it must lie in 1 to {limit}."
        raise GenerationError(where, problem, fix="shorten the prompt, or export with a larger seq_length.")


def _check_places(where: str, inputs: Inputs, seq_length: int) -> None:
    rows, tokens = inputs[INPUT_IDS].shape
    if BATCH_INDEX in inputs and not np.array_equal(inputs[BATCH_INDEX], np.arange(rows)):
        raise GenerationError(where, f"input {BATCH_INDEX} must be 0 to {rows - 1} in order; got {inputs[BATCH_INDEX].tolist()}.")
    if ACTIVE_LENGTH in inputs:
        active, needed = len(inputs[ACTIVE_LENGTH]), max(tokens, int(inputs[VALID_LENGTH].max()))
        if not needed <= active <= seq_length:
            raise GenerationError(where, f"input {ACTIVE_LENGTH} has {active} elements; it must have {needed} to {seq_length}.")


def _check_slots(where: str, inputs: Inputs, kv: KVCache) -> None:
    """Every token has a slot of its own outside of block 0, and a step's is the one its row's table gives it."""
    rows, tokens = inputs[INPUT_IDS].shape
    slots_BC, lengths_B = inputs[SLOT_MAPPING].reshape(rows, tokens), inputs[VALID_LENGTH]
    real_BC = np.arange(tokens) < (lengths_B[:, None] if tokens > 1 else np.ones((rows, 1)))
    real = slots_BC[real_BC]
    last = kv.blocks * kv.block_size - 1
    if ((real < kv.block_size) | (real > last)).any() or len(np.unique(real)) != len(real) or (slots_BC[~real_BC] != -1).any():
        problem = f"input {SLOT_MAPPING} must give each token a slot of its own in {kv.block_size} to {last}, and padding -1."
        raise GenerationError(where, problem)
    if BLOCK_TABLES not in inputs:
        return
    tables_BW = inputs[BLOCK_TABLES]
    positions_B = lengths_B - 1
    wanted_B = tables_BW[np.arange(rows), positions_B // kv.block_size] * kv.block_size + positions_B % kv.block_size
    if ((tables_BW < 0) | (tables_BW >= kv.blocks)).any() or not np.array_equal(wanted_B, slots_BC[:, 0]):
        problem = f"inputs {BLOCK_TABLES} and {SLOT_MAPPING} do not agree, or name blocks outside of 0 to {kv.blocks - 1}."
        raise GenerationError(where, problem)
