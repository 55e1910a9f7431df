"""From logits to the next token: penalties, temperature, top-k, top-p, and the draw itself.

Order, as MindFormers has it: repetition penalties -> temperature -> top-k -> top-p -> renormalise -> draw.
A removed token has logit -inf. Everything is computed in float64, so that the cut of top-p and the draw
depend on the model's logits and not on the order of a sum.
Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation.protocol import Bools, Floats, Int32

Float64 = NDArray[np.float64]


def check_logits(logits_BV: Floats, rows: list[int], step: int) -> None:
    """Refuse logits that no token can be chosen from.

    Args:
        logits_BV: one row per entry of `rows`.
        rows: the row numbers a person knows, for the message.
        step: new tokens before this one.

    Raises:
        GenerationError: a row has NaN or +inf, or only -inf.
    """
    peaks_B = np.max(logits_BV, axis=1)  # NaN is passed on by max, so one pass finds all three faults
    for row, peak in zip(rows, peaks_B, strict=True):
        if not np.isfinite(peak):
            kind = "NaN" if np.isnan(peak) else ("+inf" if peak > 0 else "nothing but -inf")
            raise GenerationError(
                f"row {row}, new token {step + 1}",
                f"the model's logits contain {kind}.",
                fix="check the checkpoint (codellama check), or use compute_dtype float32 or bfloat16: float16 overflows at 65504.",
            )


def log_softmax(logits_BV: Floats) -> Float64:
    """float64 `(B, V)` log-probabilities; -inf stays -inf."""
    shifted_BV = logits_BV.astype(np.float64) - np.max(logits_BV, axis=1, keepdims=True)
    return np.asarray(shifted_BV - np.log(np.sum(np.exp(shifted_BV), axis=1, keepdims=True)), dtype=np.float64)


def softmax(logits_BV: Floats) -> Float64:
    """float64 `(B, V)` probabilities; -inf becomes 0."""
    return np.asarray(np.exp(log_softmax(logits_BV)), dtype=np.float64)


def penalise_repetition(logits_BV: Floats, seen_BV: Bools, penalty: float) -> Float64:
    """Make tokens already seen less likely: positive logits are divided, negative ones multiplied.

    Args:
        logits_BV: float `(B, V)`.
        seen_BV: bool `(B, V)`, True where the token is in the row's prompt or answer.
        penalty: above 0; 1 changes nothing, below 1 favours repetition.

    Source: arXiv 1909.05858 section 4.1, as transformers and MindFormers apply it.
    """
    logits_BV = logits_BV.astype(np.float64)
    punished_BV = np.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
    return np.asarray(np.where(seen_BV, punished_BV, logits_BV), dtype=np.float64)


def keep_top_k(logits_BV: Floats, top_k: int) -> Float64:
    """Remove all but the `top_k` most likely tokens; 0 keeps everything.

    Tokens that tie with the last kept one are kept too, as in transformers.
    """
    logits_BV = logits_BV.astype(np.float64)
    vocab_size = logits_BV.shape[1]
    if top_k < 1 or top_k >= vocab_size:
        return logits_BV
    least_B1 = np.partition(logits_BV, vocab_size - top_k, axis=1)[:, vocab_size - top_k, None]
    return np.asarray(np.where(logits_BV < least_B1, -np.inf, logits_BV), dtype=np.float64)


def keep_top_p(logits_BV: Floats, top_p: float) -> Float64:
    """Remove all but the smallest set of tokens whose mass reaches `top_p`.

    The token that crosses `top_p` is kept, as codellama's llama/generation.py (sample_top_p) and transformers do.
    MindFormers differs twice: it drops the crossing token (it keeps those whose own cumulated mass is below
    `top_p`), and its 1.0 releases look at the 200 best candidates only.

    Args:
        logits_BV: float `(B, V)`.
        top_p: in (0, 1]; 1 keeps everything.

    Returns:
        float64 `(B, V)`; the most likely token always survives.

    Source: arXiv 1904.09751.
    """
    logits_BV = logits_BV.astype(np.float64)
    if top_p >= 1:
        return logits_BV
    order_BV = np.argsort(-logits_BV, axis=1, kind="stable")
    sorted_BV = np.take_along_axis(softmax(logits_BV), order_BV, axis=1)
    mass_before_BV = np.cumsum(sorted_BV, axis=1) - sorted_BV
    drop_BV = np.empty(logits_BV.shape, dtype=np.bool_)
    np.put_along_axis(drop_BV, order_BV, mass_before_BV > top_p, axis=1)
    return np.asarray(np.where(drop_BV, -np.inf, logits_BV), dtype=np.float64)


def seen_tokens(rows: list[list[int]], vocab_size: int) -> Bools:
    """Bool `(B, V)`, True where the row holds the token; ids are in [0, V)."""
    seen_BV = np.zeros((len(rows), vocab_size), dtype=np.bool_)
    for seen_V, ids in zip(seen_BV, rows, strict=True):
        seen_V[ids] = True
    return seen_BV


def process(logits_BV: Floats, config: GenerationConfig, *, seen_BV: Bools | None, prompt_BV: Bools | None) -> Float64:
    """Apply what holds for greedy, sampling and beam search alike: the two repetition penalties.

    Args:
        logits_BV: float `(B, V)` logits, or log-probabilities in beam search.
        config: its `repetition_penalty` and `encoder_repetition_penalty`.
        seen_BV: tokens of prompt and answer; needed when `repetition_penalty` is not 1.
        prompt_BV: tokens of the prompt; needed when `encoder_repetition_penalty` is not 1. Above 1 it makes
            the prompt's own tokens more likely.
    """
    logits_BV = logits_BV.astype(np.float64)
    if config.encoder_repetition_penalty != 1:
        assert prompt_BV is not None
        logits_BV = penalise_repetition(logits_BV, prompt_BV, 1 / config.encoder_repetition_penalty)
    if config.repetition_penalty != 1:
        assert seen_BV is not None
        logits_BV = penalise_repetition(logits_BV, seen_BV, config.repetition_penalty)
    return logits_BV


def warp(logits_BV: Floats, config: GenerationConfig) -> Float64:
    """Apply what shapes sampling alone: temperature, top-k, top-p, in that order."""
    logits_BV = logits_BV.astype(np.float64) / config.temperature
    logits_BV = keep_top_p(keep_top_k(logits_BV, config.top_k), config.top_p)
    return log_softmax(logits_BV) if config.renormalize_logits else logits_BV


def row_generator(seed: int, row: int) -> np.random.Generator:
    """The random numbers of one row: a function of the seed and the row's number in the whole request alone.

    So a row's answer does not change with its batch mates, nor with how a request is cut into batches.
    """
    return np.random.default_rng([seed, row])


def draw(logits_BV: Floats, generators: list[np.random.Generator]) -> Int32:
    """One token per row with probability softmax(logits); each row spends one number of its own generator."""
    mass_BV = np.cumsum(softmax(logits_BV), axis=1)
    tokens = []
    for mass_V, generator in zip(mass_BV, generators, strict=True):
        # side="right": a removed token adds no mass, so no number can fall on it.
        point = generator.random() * mass_V[-1]
        tokens.append(min(int(np.searchsorted(mass_V, point, side="right")), int(np.flatnonzero(np.diff(mass_V, prepend=0))[-1])))
    return np.asarray(tokens, dtype=np.int32)


def pick(logits_BV: Floats, config: GenerationConfig, generators: list[np.random.Generator]) -> Int32:
    """The next token of each row: the most likely (lowest id on a tie), or a draw when `do_sample`."""
    if not config.samples:
        return np.asarray(np.argmax(logits_BV, axis=1), dtype=np.int32)
    return draw(warp(logits_BV, config), generators)
