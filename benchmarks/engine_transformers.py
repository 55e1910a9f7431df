"""transformers on torch (CPU), as it comes: eager, its default attention, greedy. Run by worker.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from random_weights import weights
from safetensors.torch import load_file
from shapes import NORM_EPS, ROPE_THETA, Shape


def build_model(shape: Shape, positions: int, dtype: torch.dtype, file: Path | None = None) -> transformers.LlamaForCausalLM:
    """The model with the weights of random_weights.py, read from a file of them or drawn; never with torch's own initialisation."""
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=positions,
        rms_norm_eps=NORM_EPS,
        rope_theta=ROPE_THETA,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    if file is not None:
        values = {name: value.to(dtype) for name, value in load_file(file).items()}
    else:
        values = {weight.name: torch.from_numpy(weight.values()).to(dtype) for weight in weights(shape)}
    model.load_state_dict(values, assign=True)
    # the one buffer that is computed, not loaded
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


class Transformers:
    """One model with a key-value cache, greedy; logits of the last position only."""

    def __init__(self, shape: Shape, form: str, *, file: Path, positions: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = build_model(shape, positions, getattr(torch, form), file).eval()
        self.cache = None

    @property
    def version(self) -> str:
        return f"torch {torch.__version__}, transformers {transformers.__version__}"

    def prefill(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Forget everything, read prompts; int32 `(B,)`, the most likely next token of each."""
        self.cache = None
        return self._forward(torch.from_numpy(tokens_BT).long())

    def step(self, tokens_B: np.ndarray) -> np.ndarray:
        """One more token of every row; int32 `(B,)`."""
        return self._forward(torch.from_numpy(tokens_B).long()[:, None])

    def _forward(self, tokens_BT: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            out = self.model(tokens_BT, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return out.logits[:, -1].argmax(-1).to(torch.int32).numpy()
