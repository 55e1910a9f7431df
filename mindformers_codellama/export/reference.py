"""What the model says to a few tokens, kept beside its exported graphs, so that they can be compared with it then and later.

Shape letters: B rows, T prompt positions, N steps, V vocabulary.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.checkpoint.files import FileRecord, Output
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.generation.protocol import Decoder

REFERENCE = "export/reference.npz"
"""Below the export directory."""
STEPS = 8
"""Tokens generated."""
PROMPT = 24
"""Tokens of the longest prompt, at most."""
_FIELDS = ("ids", "lengths", "tokens", "logits")


@dataclass(frozen=True)
class Reference:
    """Prompts, the most likely tokens after them, and the logits those were taken from."""

    ids: NDArray[np.int32]
    """`(B, T)`, right padded."""
    lengths: NDArray[np.int32]
    """`(B,)`."""
    tokens: NDArray[np.int32]
    """`(N, B)`."""
    logits: NDArray[np.float32]
    """`(N + 1, B, V)`: after the prompt, and after every token."""


def prompts(config: ModelConfig, rows: int, words: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Right-padded prompts `(B, T)` of different lengths and their lengths.

    Args:
        config: of the model.
        rows: B.
        words: token ids to begin with; when they are none, or not enough, seeded random ids go on.
    """
    longest = max(1, min(PROMPT, config.seq_length - STEPS, config.seq_length // 2))
    random = np.random.default_rng(0).integers(0, config.vocab_size, (rows, longest), np.int32)
    given = np.array(words[:longest], np.int32)
    random[:, : len(given)] = given
    lengths_B = np.maximum(1, longest - np.arange(rows, dtype=np.int32) % longest).astype(np.int32)
    padded = np.where(np.arange(longest) < lengths_B[:, None], random, config.pad_token_id)
    return padded.astype(np.int32), lengths_B


def run_reference(decoder: Decoder, ids_BT: NDArray[np.int32], lengths_B: NDArray[np.int32]) -> Reference:
    """Ask the model itself."""
    logits = [decoder.prefill(ids_BT, lengths_B)]
    tokens: list[NDArray[np.int32]] = []
    for _ in range(max(0, min(STEPS, decoder.max_length - int(lengths_B.max())))):
        tokens.append(logits[-1].argmax(-1).astype(np.int32))
        logits.append(decoder.step(tokens[-1]))
    return Reference(ids_BT, lengths_B, np.array(tokens, np.int32).reshape(len(tokens), len(lengths_B)), np.array(logits, np.float32))


def error_bound(config: ModelConfig, logits: NDArray[np.float32]) -> float:
    """How far logits of the same weights may be apart when sums are taken in another order.

    A value passes about 12 L + 4 roundings in a row (products, norms, sums of a block; the head), each of up to one unit in
    the last place of the compute type at the size of the largest logit. They are independent, so they grow with the root of
    their number; four times that is allowed to each side, for both round. A key in a wrong place, a wrong mask or another
    weight moves logits by parts of their size.
    """
    unit = float(ml_dtypes.finfo(np.dtype(config.compute_dtype)).eps)
    return 8.0 * unit * math.sqrt(12 * config.num_layers + 4) * max(1e-3, float(np.abs(logits).max()))


def compare(decoder: Decoder, reference: Reference, config: ModelConfig, *, where: object, slack: float = 1.0) -> dict[str, Any]:
    """Run graphs over the tokens of a reference; the numbers found.

    The most likely token must be the same at every step, unless the model itself held two within the bound.

    Args:
        decoder: over the graphs.
        reference: what the model said.
        config: of the model.
        where: names the graphs in an error.
        slack: times the bound, for another library with its own exponential and order of sums.

    Raises:
        CheckpointError: other logits or other tokens.
    """
    bound = slack * error_bound(config, reference.logits)
    worst = 0.0
    for step in range(len(reference.tokens) + 1):
        got_BV = decoder.prefill(reference.ids, reference.lengths) if step == 0 else decoder.step(reference.tokens[step - 1])
        wanted_BV = reference.logits[step]
        error = float(np.abs(got_BV - wanted_BV).max()) if np.isfinite(got_BV).all() else float("inf")
        worst = max(worst, error)
        if error > bound:
            kind = "a prompt" if step == 0 else f"{step} steps"
            problem = f"the graphs give other logits than the model after {kind}: they differ by {error:.3g}, allowed is {bound:.3g}."
            raise CheckpointError(where, problem, fix="export again; if it happens again, this is a fault of the export.")
        top_BV = np.sort(wanted_BV, axis=-1)
        clear_B = top_BV[:, -1] - top_BV[:, -2] > 2 * bound
        if (clear_B & (got_BV.argmax(-1) != wanted_BV.argmax(-1))).any():
            raise CheckpointError(where, f"the graphs choose other tokens than the model after {step} steps.", fix="export again.")
    return {"max_logit_error": worst, "bound": bound, "steps": len(reference.tokens), "rows": len(reference.lengths)}


def write_reference(path: Path, reference: Reference) -> FileRecord:
    """Write it; the record names it as the manifest does."""
    held = io.BytesIO()
    np.savez_compressed(held, **{name: getattr(reference, name) for name in _FIELDS})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        output = Output(file, hashed=True)
        output.write(held.getvalue())
    return output.record(REFERENCE)


def read_reference(path: Path) -> Reference:
    """The reference of an export directory, whose sha256 was checked before.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return Reference(*(held[name] for name in _FIELDS))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(path, f"cannot be read: {error}.", fix="export again.") from error
