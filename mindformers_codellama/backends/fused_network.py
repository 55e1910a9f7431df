"""`FusedNetwork`: a model's weights opened for the network kernel, and the operator that runs one pass.

The weights are handed over once, by `LlamaOpen`; a pass then has six inputs instead of up to some hundreds, each of which
costs MindSpore about 4 us a call. Nothing is copied: the kernel reads the memory the arrays and Parameters have.
Letters: X new tokens, W wanted logits, V vocabulary, L layers, P positions, H head.
"""

from __future__ import annotations

import math
import weakref

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.backends.packed_model import FORMS, ROLES, SCALED_FORMS, PackedModel
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import EnvironmentFault
from mindformers_codellama.kernels.library import call, last_error
from mindformers_codellama.kernels.operators import kernel_operator
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.model.rope import rotary_angles

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

_DESCRIPTION = 4
"""Inputs before the weights: sizes, reals, cosines, sines."""
PAGE_SIZE = 64
"""Tokens of a page: the kernel scores 64 keys of one page together."""


class FusedNetwork:
    """Weights that stay where they are, read by the kernel.

    Args:
        weights: a whole float32 network, or packed weights.

    Raises:
        EnvironmentFault: the kernel library cannot be used.
    """

    def __init__(self, weights: LlamaNetwork | PackedModel) -> None:
        self.config: ModelConfig = weights.config
        self._network = weights if isinstance(weights, LlamaNetwork) else None
        self.form = "float32" if isinstance(weights, LlamaNetwork) else weights.form
        vocabulary = self.config.vocab_size
        self._operator = kernel_operator(
            "LlamaStep", lambda handle, tokens, wanted, *_: (wanted[0], vocabulary), lambda *_: ms.float32, kind=vocabulary
        )
        self._rotary = rotary_table(self.config)
        self._places: tuple[int, ...] = ()
        self._closing: weakref.finalize | None = None
        self._fingerprint = 0
        if isinstance(weights, PackedModel):
            self._open(list(packed_inputs(weights, self._rotary).values()))
        else:
            self.refresh()

    @property
    def pool_dtype(self) -> np.dtype:
        """Type of the elements of key and value pools: float32, or uint16 for the bits of bfloat16."""
        return pool_dtype(self.form)

    @property
    def page_shape(self) -> tuple[int, int, int]:
        """Shape of one page of the key pool, and of the value pool."""
        return page_shape(self.config)

    def refresh(self) -> bool:
        """Look at the weights again; whether they are others than at the last look. Packed weights never change.

        Reads all weights of a network once: about the time of one token.
        """
        if self._network is None:
            return False
        inputs = _network_inputs(self._network, self._rotary)  # waits for updates that are on their way
        places = tuple(array.ctypes.data for array in inputs[_DESCRIPTION:])
        if places != self._places:
            self._open(inputs)
            self._places = places
        before = self._fingerprint
        found = np.zeros(1, np.int64)
        call("LlamaFingerprint", [self._handle], [found])
        self._fingerprint = int(found[0])
        return self._fingerprint != before

    def forward(self, tokens_3X: ms.Tensor, wanted_W: ms.Tensor, table: ms.Tensor, pools: tuple[ms.Tensor, ms.Tensor]) -> Float32:
        """One pass; keys and values are written into the pools.

        Args:
            tokens_3X: int32 ids, positions and rows; tokens of a row stand behind each other.
            wanted_W: int32 indices of tokens whose logits are asked for, rising.
            table: int32 `(rows, pages)`, pages of every row.
            pools: keys and values, `(pages, *page_shape)`.

        Returns:
            float32 `(W, V)`.
        """
        try:
            logits_WV: Float32 = self._operator(self._handle_tensor, tokens_3X, wanted_W, table, *pools).asnumpy()
        except RuntimeError as error:
            raise EnvironmentFault(
                "network kernel", f"failed: {last_error() or error}", fix="report this; kernels: off avoids it."
            ) from error
        return logits_WV

    def _open(self, inputs: list[np.ndarray]) -> None:
        handle = np.zeros(1, np.int64)
        call("LlamaOpen", inputs, [handle])
        # The arrays live as long as the handle; closing runs before they go.
        self._inputs = inputs
        self._handle = handle
        self._handle_tensor = ms.Tensor.from_numpy(handle)
        if self._closing is not None:
            self._closing()
        self._closing = weakref.finalize(self, call, "LlamaClose", [handle], [np.zeros(1, np.int64)])


def pool_dtype(form: str) -> np.dtype:
    """Type of the elements of key and value pools beside weights of a form: float32, or uint16 for the bits of bfloat16."""
    return np.dtype(np.float32 if form == "float32" else np.uint16)


def page_shape(config: ModelConfig) -> tuple[int, int, int]:
    """Shape of one page of the key pool, and of the value pool."""
    return config.num_layers, config.num_kv_heads, PAGE_SIZE * -(-config.head_dim // 16) * 16


def rotary_table(config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines `(P, H)` as `model.rope.RotaryTable` holds them."""
    angles_PR = rotary_angles(config, config.seq_length).astype(np.float64)
    cos_PR, sin_PR = np.cos(angles_PR), np.sin(angles_PR)
    return np.concatenate((cos_PR, cos_PR), -1).astype(np.float32), np.concatenate((-sin_PR, sin_PR), -1).astype(np.float32)


def _description(config: ModelConfig, form: str, group: int, *, separate: bool) -> list[np.ndarray]:
    """Inputs `sizes` and `reals` of `csrc/op_forward.cpp`."""
    sizes = (config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim)
    more = (config.intermediate_size, config.vocab_size, FORMS.index(form), group, PAGE_SIZE, int(separate), int(config.qkv_has_bias))
    reals = (config.rms_norm_eps, 1.0 / math.sqrt(config.head_dim))
    return [np.array(sizes + more, np.int64), np.array(reals, np.float32)]


def packed_inputs(model: PackedModel, rotary: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """All inputs of `csrc/op_forward.cpp` that describe packed weights, in their order."""
    names = ["embedding", "norms", *ROLES]
    names += [f"{role}_scales" for role in ROLES] if model.form in SCALED_FORMS else []
    names += ["qkv_bias"] if model.config.qkv_has_bias else []
    sizes, reals = _description(model.config, model.form, model.group, separate=False)
    return {"sizes": sizes, "reals": reals, "cosines": rotary[0], "sines": rotary[1], **{name: model.arrays[name] for name in names}}


def _network_inputs(network: LlamaNetwork, rotary: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """Views of the Parameters; a view keeps their memory even when the Parameter gets another."""
    config, stack = network.config, network.model
    parameters = [stack.tok_embeddings.embedding_weight]
    for block in stack.layers:
        attention, feed = block.attention, block.feed_forward
        parameters += [block.attention_norm.weight, block.ffn_norm.weight]
        parameters += [linear.weight for linear in (attention.wq, attention.wk, attention.wv, attention.wo, feed.w1, feed.w3, feed.w2)]
        parameters += [linear.bias for linear in (attention.wq, attention.wk, attention.wv)] if config.qkv_has_bias else []
    parameters += [stack.norm_out.weight, network.lm_head.weight]
    return [*_description(config, "float32", 0, separate=True), *rotary, *(parameter.asnumpy() for parameter in parameters)]
