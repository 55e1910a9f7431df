"""What every decoder asks of the tokens it is given.

Shape letters: B rows, T prompt positions, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.errors import GenerationError
from mindformers_codellama.model.inputs import check_token_ids

Int32 = NDArray[np.int32]


def check_prompts(tokens_BT: Int32, lengths_B: Int32, *, max_length: int, vocab_size: int) -> tuple[Int32, Int32]:
    """The prompts of a `prefill`, without columns that no row uses.

    Args:
        tokens_BT: integers `(B, T)`, right padded; the padding must be valid ids too.
        lengths_B: integers `(B,)` in [1, T].
        max_length: tokens a row of the model holds.
        vocab_size: V.

    Returns:
        int32 `(B, longest)` and `(B,)`.

    Raises:
        GenerationError: a prompt longer than `max_length`.
        TokenizerError: an id outside [0, V).
    """
    tokens_BT = np.asarray(tokens_BT, np.int32)
    lengths_B = np.asarray(lengths_B, np.int32)
    assert lengths_B.shape == tokens_BT.shape[:1], "prefill takes (B, T) tokens and (B,) lengths"
    longest = int(lengths_B.max())
    assert 1 <= int(lengths_B.min()) <= longest <= tokens_BT.shape[1], "lengths must be in [1, T]"
    if longest > max_length:
        raise GenerationError(
            f"prompt {int(lengths_B.argmax())}",
            f"has {longest} tokens, the model holds {max_length}.",
            fix="shorten it, or raise model.model_config.seq_length (with extend_method past the trained positions).",
        )
    check_token_ids(tokens_BT[:, :longest], vocab_size, where="prompts")
    return tokens_BT[:, :longest], lengths_B


def rows_are_full(max_length: int) -> GenerationError:
    """The error of a `step` when no row can take another token."""
    return GenerationError(
        "max_length",
        f"every row has reached the {max_length} tokens the model holds.",
        fix="ask for fewer new tokens, or raise model.model_config.seq_length.",
    )
