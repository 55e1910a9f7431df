"""Checks of token ids where they enter: MindSpore's gather accepts negative ones, reading from the end."""

from __future__ import annotations

import numpy as np

from mindformers_codellama.errors import TokenizerError


def check_token_ids(ids: np.ndarray, vocab_size: int, *, where: str) -> None:
    """Refuse ids outside [0, vocab_size).

    Args:
        ids: integers of any shape.
        vocab_size: rows of the embedding.
        where: what a person can look at: the prompt's number, the file and row.

    Raises:
        TokenizerError: with the first bad id and its index.
    """
    bad = (ids < 0) | (ids >= vocab_size)
    if not bad.any():
        return
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    raise TokenizerError(
        where,
        f"token id {int(ids[index])} at {index} is outside the model's vocabulary of {vocab_size}.",
        fix="use the tokenizer the model was trained with: its size must equal model.model_config.vocab_size.",
    )
