"""Does a tokenizer fit a model? Asked before any id reaches an embedding."""

from __future__ import annotations

from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.tokenizer import LlamaTokenizer


def tokenizer_fits_model(tokenizer: LlamaTokenizer, vocab_size: int, where: str) -> None:
    """Refuse a tokenizer that can give an id the model has no row for. Spare rows are fine (32000 pieces, 32016 rows).

    Args:
        tokenizer: with its added tokens.
        vocab_size: V, rows of the model's embedding.
        where: what a person can open to change it, such as "model.model_config.vocab_size".

    Raises:
        TokenizerError: names the tokenizer file, its size and the model's.
    """
    fix = "use the tokenizer.model that belongs to the weights, or the model configuration that belongs to the tokenizer."
    if tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            where,
            f"{tokenizer.path} has {tokenizer.vocab_size} pieces, the model's vocabulary is {vocab_size}: tokenizer and model disagree.",
            fix=fix,
        )
    beyond = {token.content: token.id for token in tokenizer.added_tokens.by_id.values() if (token.id or 0) >= vocab_size}
    if beyond:
        named = ", ".join(f"{content!r} has id {index}" for content, index in beyond.items())
        raise TokenizerError(
            where, f"in {tokenizer.path} {named}, the model's vocabulary is {vocab_size}: tokenizer and model disagree.", fix=fix
        )
