"""Loss and perplexity of weights in any form: packed ones through the network kernel, others as `train.evaluate` does.

Shape letters: S positions of a sequence, X ids of a row of the dataset, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.checkpoint.packed_manifest import packed_folder
from mindformers_codellama.config.check import require_runnable
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.config.weight_forms import PACKED_FORMS
from mindformers_codellama.data.batches import Batch, BatchSource, open_batches
from mindformers_codellama.errors import ConfigError, DataError
from mindformers_codellama.pipelines.compare_weights import chosen_losses
from mindformers_codellama.pipelines.packed_lm import PackedCausalLM
from mindformers_codellama.pipelines.row_logits import PackedLogits
from mindformers_codellama.pipelines.weight_form import open_causal_lm
from mindformers_codellama.train.device import enter_run
from mindformers_codellama.train.evaluate import EvalResult, evaluate, open_evaluator

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Sequence:
    """Tokens that see each other, and what each should predict."""

    tokens: Ids
    labels: Ids
    weight: NDArray[np.bool_]
    """Positions that count."""


def evaluate_weights(run: RunConfig, *, progress: Callable[[int, int], object] | None = None) -> tuple[EvalResult, str]:
    """Evaluate the weights a configuration names in the form its key `weights` asks for.

    Returns:
        The result, and the form the weights were in.

    Raises:
        CodeLlamaError: of the kind that fits.
    """
    folder = packed_folder(run.start_weights) if run.start_weights else None
    if folder is None and run.weights not in PACKED_FORMS:
        if run.weights == "float32":
            settings = replace(run.model.model_config, compute_dtype="float32", param_init_type="float32")
            run = replace(run, model=replace(run.model, model_config=settings))
        return evaluate(run, progress=progress), run.model.config.param_init_dtype
    require_runnable(run)
    if run.compat.perplexity_counts_pads:
        problem = "True needs a network of floating-point weights."
        raise ConfigError("compat.perplexity_counts_pads", problem, fix="write False, or weights: auto with the original checkpoint.")
    enter_run(run)
    model = open_causal_lm(run.model.config, run.start_weights, form=run.weights)
    if not isinstance(model, PackedCausalLM):  # no kernels: a network holds the same values
        model.set_train(False)  # type: ignore[attr-defined]
        return open_evaluator(run, model)(progress), f"{run.weights} in float32"  # type: ignore[arg-type]
    return _evaluate(run, model, progress), model.weights.form


def _evaluate(run: RunConfig, model: PackedCausalLM, progress: Callable[[int, int], object] | None) -> EvalResult:
    source, logits, config = _open_rows(run), PackedLogits(model.fused()), run.model.config
    losses: list[float] = []
    tokens = batches = 0
    for batches, batch in enumerate(source.epoch(0), 1):
        rows = [one for one in sequences(batch, config.pad_token_id, config.ignore_token_id) if one.weight.any()]
        for number, first, logits_CV in logits([one.tokens for one in rows]) if rows else ():
            here = slice(first, first + len(logits_CV))
            kept = np.flatnonzero(rows[number].weight[here])
            losses.append(float(chosen_losses(logits_CV[kept], rows[number].labels[here][kept]).sum()) if len(kept) else 0.0)
            tokens += len(kept)
        if progress:
            progress(batches, source.batches_per_epoch)
    if not tokens:
        raise DataError(source.files[0], "every label is masked: there is no token to evaluate.", fix="prepare the data again.")
    mean = math.fsum(losses) / tokens
    return EvalResult(loss=mean, perplexity=math.exp(mean) if mean < 700 else math.inf, tokens=tokens, batches=batches)


def sequences(batch: Batch, pad: int, ignore: int) -> Iterator[Sequence]:
    """The rows of a batch, cut where the segment changes, without the padding at their ends.

    Positions need not be given: rotary attention sees only distances. What counts is what `model.loss` counts.
    """
    ids_BX = batch["input_ids"]
    labels_BX = batch.get("labels", ids_BX)
    segments_BX = batch.get("segment_ids", np.zeros_like(ids_BX))
    for ids_X, labels_X, segments_X in zip(ids_BX, labels_BX, segments_BX, strict=True):
        weight_S = (ids_X[:-1] != pad) & (labels_X[1:] != ignore) & (segments_X[:-1] == segments_X[1:])
        cuts = np.flatnonzero(segments_X[1:-1] != segments_X[:-2]) + 1
        for start, stop in zip((0, *cuts), (*cuts, len(ids_X) - 1), strict=True):
            real = np.flatnonzero(ids_X[start:stop] != pad)
            if real.size:
                end = start + int(real[-1]) + 1
                yield Sequence(ids_X[start:end], labels_X[start + 1 : end + 1], weight_S[start:end])


def _open_rows(run: RunConfig) -> BatchSource:
    """Rows of seq_length + 1 ids, or of seq_length as MindFormers' guides prepare them."""
    config = run.model.config

    def rows(length: int) -> BatchSource:
        return open_batches(
            run.eval_dataset,
            batch_size=run.runner_config.batch_size,
            row_length=length,
            vocab_size=config.vocab_size,
            seed=run.seed,
            rank=0,
            world_size=1,
            uneven=True,
        )

    try:
        return rows(config.seq_length + 1)
    except DataError as error:
        try:
            return rows(config.seq_length)
        except DataError:
            raise error from None
