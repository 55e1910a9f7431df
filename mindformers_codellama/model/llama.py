"""`LlamaNetwork`: token ids to logits, whole rows at once."""

from __future__ import annotations

from collections.abc import Iterable

import mindspore as ms
from mindspore import nn, ops

from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.kernels.linear import KernelLinear
from mindformers_codellama.model.attention import additive_mask
from mindformers_codellama.model.decoder import DecoderStack
from mindformers_codellama.model.edges import head_edge
from mindformers_codellama.model.kernels import uses_kernels
from mindformers_codellama.model.linear import Linear
from mindformers_codellama.model.part import WHOLE, NetworkPart
from mindformers_codellama.runtime.dtypes import mindspore_dtype


class LlamaNetwork(nn.Cell):
    """The Llama decoder with its output head; parameter names are MindFormers'.

    Weights are zero until `model.initial.init_parameters` or a checkpoint fills them.

    Args:
        config: sizes, dtypes and rotary settings; `seq_length` is the longest row.
        part: what of the network this rank holds.
    """

    def __init__(self, config: ModelConfig, part: NetworkPart = WHOLE) -> None:
        super().__init__()
        self.config = config
        self.part = part
        self.pad_token_id = config.pad_token_id
        self.mask_dtype = mindspore_dtype(config.softmax_compute_dtype)
        self.model = DecoderStack(config, part)
        self.adapts = False
        """Whether layers have an adapter, which alone is trained (`model.lora.add_adapter`)."""
        self.is_last = part.last
        enter = head_edge(part) if part.last else None
        self.enters = enter is not None
        if enter is not None:
            self.enter = enter
        if part.last:
            self.lm_head = Linear(
                config.hidden_size,
                part.share(config.vocab_size) if part.cut_vocabulary else config.vocab_size,
                compute_dtype=mindspore_dtype(config.compute_dtype),
                param_dtype=mindspore_dtype(config.param_init_dtype),
            )
        self.uses_kernels = uses_kernels(config)
        if self.uses_kernels and part.last:
            self.head_product = KernelLinear(mindspore_dtype(config.compute_dtype), ms.float32)

    def construct(
        self, input_ids_BS: ms.Tensor, position_ids_BS: ms.Tensor | None = None, segment_ids_BS: ms.Tensor | None = None
    ) -> ms.Tensor:
        """Logits of every position, from a part that has the first and the last layer.

        A token sees itself and what stands before it, except pad tokens and, when `segment_ids` are
        given, tokens of another segment. Rows of only pads give finite numbers without meaning.

        Args:
            input_ids_BS: int32 `(B, S)`, S <= seq_length, ids in [0, V).
            position_ids_BS: int32 `(B, S)` in [0, seq_length); 0..S-1 when None.
            segment_ids_BS: int32 `(B, S)`, equal numbers belong to one packed sample; None for one sample per row.

        Returns:
            float32 `(B, S, V)`; only this rank's rows of the vocabulary when it is cut.
        """
        return self.run_stage(input_ids_BS, None, position_ids_BS, segment_ids_BS)

    def run_stage(
        self,
        input_ids_BS: ms.Tensor,
        hidden_BSD: ms.Tensor | None = None,
        position_ids_BS: ms.Tensor | None = None,
        segment_ids_BS: ms.Tensor | None = None,
    ) -> ms.Tensor:
        """One stage of a pipeline; every stage reads the same rows of ids, for the mask.

        Args:
            input_ids_BS: as for `construct`; S must be divisible by the degree when positions are cut.
            hidden_BSD: what the stage before gave (`model.part.stage_tensor` says its shape); the first one ignores it.
            position_ids_BS: as for `construct`.
            segment_ids_BS: as for `construct`.

        Returns:
            Hidden states for the next stage; on the last one logits as `construct` gives them.
        """
        x_BSD = self.run_layers(input_ids_BS, hidden_BSD, position_ids_BS, segment_ids_BS)
        if self.is_last:
            return self.head(x_BSD)
        return x_BSD

    def run_layers(
        self,
        input_ids_BS: ms.Tensor,
        hidden_BSD: ms.Tensor | None = None,
        position_ids_BS: ms.Tensor | None = None,
        segment_ids_BS: ms.Tensor | None = None,
    ) -> ms.Tensor:
        """`run_stage` without the head: hidden states on every stage, normalised on the last one (what `head` takes)."""
        if self.uses_kernels:
            visible = ops.zeros_like(input_ids_BS) if segment_ids_BS is None else segment_ids_BS
        else:
            visible = self.mask(input_ids_BS, segment_ids_BS)
        return self.model(input_ids_BS, position_ids_BS, visible, hidden_BSD)

    def mask(self, input_ids_BS: ms.Tensor, segment_ids_BS: ms.Tensor | None) -> ms.Tensor:
        """Additive mask `(B, 1, 1, S, S)`: causal, without pad keys, within segments."""
        length = input_ids_BS.shape[1]
        order_S = ops.arange(length)
        causal_1ST = ops.reshape(order_S, (1, 1, length)) <= ops.reshape(order_S, (1, length, 1))
        visible_BST = ops.logical_and(causal_1ST, ops.expand_dims(input_ids_BS != self.pad_token_id, 1))
        if segment_ids_BS is not None:
            same_BST = ops.expand_dims(segment_ids_BS, 2) == ops.expand_dims(segment_ids_BS, 1)
            visible_BST = ops.logical_and(visible_BST, same_BST)
        return additive_mask(visible_BST, self.mask_dtype)

    def head(self, hidden_BSD: ms.Tensor) -> ms.Tensor:
        """float32 logits of hidden states; this rank's rows of the vocabulary when it is cut."""
        if self.enters:
            hidden_BSD = self.enter(hidden_BSD)
        if self.uses_kernels:
            return self.head_product(hidden_BSD, self.lm_head.weight)
        return ops.cast(self.lm_head(hidden_BSD), ms.float32)

    def recompute_blocks(self, blocks: Iterable[int] | None = None) -> None:
        """Keep only the inputs of these blocks (all when None) for the backward pass, and run them again there.

        Blocks of other stages are passed over.

        Trades about a third more arithmetic for the memory of the blocks' activations. Call once, before compiling.
        """
        own = self.part.own_layers(self.config)
        for index in own if blocks is None else blocks:
            if index in own:
                self.model.layers[index].recompute()
