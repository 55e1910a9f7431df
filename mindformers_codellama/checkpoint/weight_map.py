"""Names of tensors in Hugging Face, Meta and MindFormers checkpoints, as data.

Letters of `dims`: V vocabulary, D hidden, F intermediate, NH rows of the queries (heads times head width),
KH rows of the keys and values. Matrices are `(out, in)` in all three, so nothing is transposed.
Source: mindformers 1.0.2 llama convert_weight.py; transformers modeling_llama.py; Meta llama model.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mindformers_codellama.config.model_config import ModelConfig


@dataclass(frozen=True)
class Rule:
    """One kind of tensor; `{i}` in a name is the layer."""

    theirs: str
    ours: str
    dims: str
    part_axis: int | None = None
    """Meta only: the dim along which model-parallel parts are joined; None when every part holds the whole."""
    rotary_heads: str = ""
    """Meta only: `N` or `K` when rows of each head come in rotary pairs and must become halves."""


_EMBEDDING = "model.tok_embeddings.embedding_weight"
_LAYER = "model.layers.{i}."

HF = (
    Rule("model.embed_tokens.weight", _EMBEDDING, "V D"),
    Rule("model.layers.{i}.input_layernorm.weight", _LAYER + "attention_norm.weight", "D"),
    Rule("model.layers.{i}.self_attn.q_proj.weight", _LAYER + "attention.wq.weight", "NH D"),
    Rule("model.layers.{i}.self_attn.k_proj.weight", _LAYER + "attention.wk.weight", "KH D"),
    Rule("model.layers.{i}.self_attn.v_proj.weight", _LAYER + "attention.wv.weight", "KH D"),
    Rule("model.layers.{i}.self_attn.o_proj.weight", _LAYER + "attention.wo.weight", "D NH"),
    Rule("model.layers.{i}.post_attention_layernorm.weight", _LAYER + "ffn_norm.weight", "D"),
    Rule("model.layers.{i}.mlp.gate_proj.weight", _LAYER + "feed_forward.w1.weight", "F D"),
    Rule("model.layers.{i}.mlp.down_proj.weight", _LAYER + "feed_forward.w2.weight", "D F"),
    Rule("model.layers.{i}.mlp.up_proj.weight", _LAYER + "feed_forward.w3.weight", "F D"),
    Rule("model.norm.weight", "model.norm_out.weight", "D"),
    Rule("lm_head.weight", "lm_head.weight", "V D"),
)
"""Hugging Face <-> MindFormers; values are equal, only names differ."""

SAVED_ORDER = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"),
)
"""Tensors of a layer in the order transformers' `save_pretrained` deals them to files."""

META = (
    Rule("tok_embeddings.weight", _EMBEDDING, "V D", part_axis=1),
    Rule("layers.{i}.attention_norm.weight", _LAYER + "attention_norm.weight", "D"),
    Rule("layers.{i}.attention.wq.weight", _LAYER + "attention.wq.weight", "NH D", part_axis=0, rotary_heads="N"),
    Rule("layers.{i}.attention.wk.weight", _LAYER + "attention.wk.weight", "KH D", part_axis=0, rotary_heads="K"),
    Rule("layers.{i}.attention.wv.weight", _LAYER + "attention.wv.weight", "KH D", part_axis=0),
    Rule("layers.{i}.attention.wo.weight", _LAYER + "attention.wo.weight", "D NH", part_axis=1),
    Rule("layers.{i}.ffn_norm.weight", _LAYER + "ffn_norm.weight", "D"),
    Rule("layers.{i}.feed_forward.w1.weight", _LAYER + "feed_forward.w1.weight", "F D", part_axis=0),
    Rule("layers.{i}.feed_forward.w2.weight", _LAYER + "feed_forward.w2.weight", "D F", part_axis=1),
    Rule("layers.{i}.feed_forward.w3.weight", _LAYER + "feed_forward.w3.weight", "F D", part_axis=0),
    Rule("norm.weight", "model.norm_out.weight", "D"),
    Rule("output.weight", "lm_head.weight", "V D", part_axis=0),
)
"""Meta -> MindFormers; see `meta_format` for parts and rotary pairs."""

BIASES = (
    Rule("", _LAYER + "attention.wq.bias", "NH"),
    Rule("", _LAYER + "attention.wk.bias", "KH"),
    Rule("", _LAYER + "attention.wv.bias", "KH"),
)
"""Present only with `qkv_has_bias`; no Llama checkpoint of Hugging Face or Meta has them."""

QKV_CONCAT = Rule("", _LAYER + "attention.w.weight", "NH+2KH D")
"""MindFormers 1.0 `qkv_concat: True`: rows are q, then k, then v."""

DROPPED = (
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",  # old transformers stored the angles; they follow from rope_theta
    r"(layers\.\d+\.attention\.)?rope\.freqs",  # the same in Meta's files
    r".*\.kvcache_mgr\.(key_past|value_past)",  # generation state, not weights
)
"""Tensors left out on purpose: they carry nothing that the configuration does not."""

TRAINING_STATE = (
    r"(adam_m|adam_v|moment1|moment2|accu_grads|optimizer|optim|random)\..*",
    r"(global_step|scale_sense|loss_scale|epoch_num|step_num|learning_rate|beta1_power|beta2_power)",
    r"(current_iterator_step|last_overflow_iterator_step|data_cursor|weight_decay|start_epoch)",
    r"(global_batch_size|current_default_lr|current_grouped_lr)",  # MindFormers 1.9
)
"""What a training checkpoint holds beside the weights; conversion leaves it out."""

ADAPTER = r".*\.mindpet_delta_lora_[AaBb]"
"""A and B of a low-rank adapter in training, as MindFormers names them; they are no part of a model's own weights."""

OTHER_CONCAT = r".*\.(w_qkv|w_gate_hidden)\.weight"
"""Concatenated weights of MindFormers 1.2 and later, whose row order depends on its version."""


@dataclass(frozen=True)
class Sizes:
    """Every size that decides a shape; heads do not, only their total width."""

    vocab: int
    hidden: int
    layers: int
    intermediate: int
    query_rows: int
    kv_rows: int
    qkv_has_bias: bool = False

    @classmethod
    def of(cls, config: ModelConfig) -> Sizes:
        """Sizes of a configuration."""
        return cls(
            vocab=config.vocab_size,
            hidden=config.hidden_size,
            layers=config.num_layers,
            intermediate=config.intermediate_size,
            query_rows=config.num_heads * config.head_dim,
            kv_rows=config.num_kv_heads * config.head_dim,
            qkv_has_bias=config.qkv_has_bias,
        )

    @classmethod
    def found_in(cls, shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        """Sizes that a checkpoint with our names was written with; None when it is no such checkpoint."""
        layers = [int(found[1]) for name in shapes if (found := re.match(r"model\.layers\.(\d+)\.", name))]
        size: dict[str, int] = {}
        for rule in HF:
            shape = next((shapes[name] for name in expand(rule.ours, max(layers, default=-1) + 1) if name in shapes), ())
            size |= {letter: n for letter, n in zip(rule.dims.split(), shape, strict=False) if letter not in size}
        if not layers or not {"V", "D", "F", "NH", "KH"} <= size.keys():
            return None
        bias = "model.layers.0.attention.wq.bias" in shapes
        return cls(size["V"], size["D"], max(layers) + 1, size["F"], size["NH"], size["KH"], bias)

    def shape(self, dims: str) -> tuple[int, ...]:
        """Shape of a rule's `dims`."""
        sizes = {"V": self.vocab, "D": self.hidden, "F": self.intermediate, "NH": self.query_rows, "KH": self.kv_rows}
        return tuple(sizes[letter] for letter in dims.split())


def expected_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Our name to shape for every weight of a model, embedding first, head last."""
    layer_rules = [rule for rule in HF if "{i}" in rule.ours] + (list(BIASES) if sizes.qkv_has_bias else [])
    first, *last = [rule for rule in HF if "{i}" not in rule.ours]
    shapes = {first.ours: sizes.shape(first.dims)}
    for layer in range(sizes.layers):
        shapes |= {rule.ours.format(i=layer): sizes.shape(rule.dims) for rule in layer_rules}
    return shapes | {rule.ours: sizes.shape(rule.dims) for rule in last}


def expand(name: str, layers: int) -> Iterable[str]:
    """A rule's name for every layer, or itself when it is outside the layers."""
    return [name.format(i=layer) for layer in range(layers)] if "{i}" in name else [name]


def match(name: str, rules: Iterable[Rule], *, theirs: bool) -> tuple[Rule, str] | None:
    """The rule of a tensor and the number of its layer (empty outside the layers); None when no rule knows it.

    Args:
        name: their name or ours.
        rules: where to look.
        theirs: whether `name` is theirs.
    """
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    number = layer[1] if layer else ""
    pattern = name.replace(f"layers.{number}.", "layers.{i}.", 1) if layer else name
    for rule in rules:
        if (rule.theirs if theirs else rule.ours) == pattern:
            return rule, number
    return None


def to_ours(name: str, rules: Iterable[Rule] = HF) -> str | None:
    """Our name of their tensor; None when no rule knows it."""
    found = match(name, rules, theirs=True)
    return found[0].ours.format(i=found[1]) if found else None


def to_theirs(name: str, rules: Iterable[Rule] = HF) -> str | None:
    """Their name of our tensor; None when no rule knows it."""
    found = match(name, rules, theirs=False)
    return found[0].theirs.format(i=found[1]) if found else None


def saved_place(theirs: str) -> tuple[int, int]:
    """Sorts Hugging Face names as `save_pretrained` goes through them: embedding, layers, last norm, head."""
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", theirs)
    if layer:
        return int(layer[1]), SAVED_ORDER.index(layer[2])
    return (-1, 0) if theirs == "model.embed_tokens.weight" else (sys.maxsize, 0)


def is_dropped(name: str) -> bool:
    """Whether a tensor is left out on purpose."""
    return any(re.fullmatch(pattern, name) for pattern in DROPPED)


def is_adapter(name: str) -> bool:
    """Whether a tensor is A or B of an adapter."""
    return re.fullmatch(ADAPTER, name) is not None


def is_training_state(name: str) -> bool:
    """Whether a tensor belongs to the optimizer or the position of a training run."""
    return any(re.fullmatch(pattern, name) for pattern in TRAINING_STATE)
