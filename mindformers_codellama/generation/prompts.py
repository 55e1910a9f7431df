"""Prompts checked against the model before anything is computed, and put side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import CodeLlamaError, GenerationError, TokenizerError, raise_all
from mindformers_codellama.generation.protocol import Decoder, Int32

logger = logging.getLogger(__name__)

TokenRows = Sequence[Sequence[int] | NDArray[np.integer]]


def check_prompts(
    prompts: TokenRows, decoder: Decoder, config: GenerationConfig, *, first_row: int = 0
) -> tuple[list[list[int]], list[int]]:
    """Prompts as lists of ints, and how long each row may become.

    An empty prompt becomes the one token `bos_token_id`.

    Args:
        prompts: token ids of each row, unpadded.
        decoder: gives the vocabulary and the room.
        config: `max_new_tokens` counts from the row's own prompt; else `max_length` counts prompt and answer.
        first_row: number of the first row in the whole request, for messages.

    Returns:
        Prompts, and the largest length of prompt plus answer of each.

    Raises:
        TokenizerError: a token id the model does not have.
        GenerationError: a prompt that leaves no room for an answer; `Findings` of several.
    """
    rows = [[int(token) for token in row] or [config.bos_token_id] for row in prompts]
    findings: list[CodeLlamaError] = []
    limits = []
    for number, ids in enumerate(rows, first_row):
        limit = min(_wanted(len(ids), config), decoder.max_length)
        limits.append(limit)
        outside = [token for token in ids if not 0 <= token < decoder.vocab_size]
        if outside:
            findings.append(
                TokenizerError(
                    f"prompt {number}",
                    f"token id {outside[0]} is outside the model's vocabulary of {decoder.vocab_size} (ids 0 to {decoder.vocab_size - 1}).",
                    fix="use the tokenizer of this checkpoint: tokenizer and model disagree.",
                )
            )
        elif len(ids) >= limit:
            fix = "shorten the prompt, or use a model with a larger seq_length."
            name = "the model's length"
            if limit < decoder.max_length:
                fix = f"set max_length above {len(ids)} (at most {decoder.max_length}), or max_new_tokens."
                name = "max_length"
            findings.append(
                GenerationError(f"prompt {number}", f"has {len(ids)} tokens, {name} is {limit}: no room for an answer.", fix=fix)
            )
    raise_all(findings)
    return rows, limits


def warn_of_cuts(prompt_lengths: Sequence[int], decoder: Decoder, config: GenerationConfig) -> None:
    """Say when more was asked for than the model has room for."""
    wanted = max((_wanted(length, config) for length in prompt_lengths), default=0)
    if wanted > decoder.max_length:
        logger.warning("length %d asked for, the model has %d positions: answers end there.", wanted, decoder.max_length)


def _wanted(prompt_length: int, config: GenerationConfig) -> int:
    """Length of prompt plus answer that is asked for."""
    return config.max_length if config.max_new_tokens is None else prompt_length + config.max_new_tokens


def right_pad(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Int32, Int32]:
    """int32 `(B, T)` tokens padded at the right to the longest row, and int32 `(B,)` lengths."""
    lengths_B = np.asarray([len(row) for row in rows], dtype=np.int32)
    tokens_BT = np.full((len(rows), int(lengths_B.max(initial=1))), pad_token_id, dtype=np.int32)
    for tokens_T, row in zip(tokens_BT, rows, strict=True):
        tokens_T[: len(row)] = row
    return tokens_BT, lengths_B
