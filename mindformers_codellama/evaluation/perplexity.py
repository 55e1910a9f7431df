"""How surprised a model is by texts: loss per token, and from it perplexity by tokens and words, and bits per byte.

Shape letters: C positions of a chunk, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mindformers_codellama.errors import DataError, GenerationError
from mindformers_codellama.evaluation.problems import read_bytes
from mindformers_codellama.evaluation.samples import LineFile
from mindformers_codellama.evaluation.windows import Window

if TYPE_CHECKING:
    from mindformers_codellama.pipelines.compare_weights import RowLogits

LARGEST_LOG = 700.0
"""Above it the exponential overflows."""


def window_losses(
    logits: RowLogits,
    windows: Sequence[Window],
    path: Path | None = None,
    *,
    batch_size: int = 1,
    on_windows: Callable[[int, int], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, float]:
    """Loss of every window: the sum over its predictions that count, in nats.

    Args:
        logits: of the model.
        windows: of different keys, at least one.
        path: JSON lines that grow; windows found there are not read again. None keeps nothing.
        batch_size: windows at once.
        on_windows: called with (done, all).
        should_stop: asked after every batch.

    Returns:
        Key to loss, in the order of `windows`.

    Raises:
        DataError: the file holds other lines or cannot be written; GenerationError: a loss that is not finite;
        KeyboardInterrupt: `should_stop`.
    """
    found = read_losses(path, windows) if path is not None and path.exists() else {}
    left = [window for window in windows if window.key not in found]
    file = LineFile(path) if path is not None else None
    try:
        for at in range(0, len(left), batch_size):
            batch = left[at : at + batch_size]
            new = dict(zip((window.key for window in batch), batch_losses(logits, batch), strict=True))
            if file is not None:
                file.write({"window": one.key, "loss": new[one.key], "tokens": int(one.counts.sum())} for one in batch)
            found |= new
            if on_windows is not None:
                on_windows(len(found), len(windows))
            if should_stop is not None and should_stop():
                raise KeyboardInterrupt
    finally:
        if file is not None:
            file.close()
    return {window.key: found[window.key] for window in windows}


def batch_losses(logits: RowLogits, batch: Sequence[Window]) -> list[float]:
    """Loss of each window, summed in float64 over the predictions that count.

    Raises:
        GenerationError: it is not finite.
    """
    from mindformers_codellama.pipelines.compare_weights import chosen_losses

    parts: list[list[float]] = [[] for _ in batch]
    for number, first, logits_CV in logits([window.tokens for window in batch]):
        window, here = batch[number], slice(first, first + len(logits_CV))
        kept = np.flatnonzero(window.counts[here])
        if len(kept):
            parts[number].append(math.fsum(chosen_losses(logits_CV[kept], window.labels[here][kept])))
    sums = [math.fsum(part) for part in parts]
    for window, loss in zip(batch, sums, strict=True):
        if not math.isfinite(loss):
            fix = "check the checkpoint (codellama check), or compute in float32 or bfloat16: float16 overflows at 65504."
            raise GenerationError(f"window {window.key}", f"the loss is {loss}: the model's logits are no finite numbers.", fix=fix)
    return sums


def read_losses(path: Path, windows: Sequence[Window]) -> dict[str, float]:
    """What an earlier run found; a half last line is left out.

    Raises:
        DataError: a line that is none of ours, or of a window that is not there.
    """
    known = {window.key for window in windows}
    data = read_bytes(path)
    found: dict[str, float] = {}
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
            key, loss = record["window"], float(record["loss"])
            if not math.isfinite(loss):
                raise ValueError
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}", 'is no {"window": ..., "loss": ...}.', fix="give another --output.") from error
        if key in known:  # others are of a run without --limit
            found[key] = loss
    return found


def perplexity_report(losses: Mapping[str, float], tokens: int, *, words: int = 0, bytes_: int = 0) -> dict[str, Any]:
    """All that is said of texts.

    Args:
        losses: of every window, in nats.
        tokens: predictions that count, at least 1.
        words: of the texts; 0 when not known, as for `bytes_`.
        bytes_: UTF-8 bytes of the texts.

    Returns:
        `loss` (nats per token), `perplexity` (its exponential, None when that overflows), and where known
        `word_perplexity`, exp(total / words), and `bits_per_byte`, total / (bytes ln 2).
    """
    whole = math.fsum(losses.values())
    found: dict[str, Any] = {"loss": whole / tokens, "perplexity": exponential(whole / tokens)}
    if words:
        found["word_perplexity"] = exponential(whole / words)
    if bytes_:
        found["bits_per_byte"] = whole / (bytes_ * math.log(2))
    return found | {"tokens": tokens, "windows": len(losses)}


def exponential(value: float) -> float | None:
    """E to a power; None when that overflows."""
    return math.exp(value) if value < LARGEST_LOG else None
