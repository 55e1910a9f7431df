"""Keys of MindFormers that ask for something an engine does not do, as data.

A key is refused only for a value that asks for it; every other value loads. Each row says why,
and what to write instead. Companions (settings of a refused switch) are accepted at any value.
`REFUSED` is what `engine: native` does not do, `REFUSED_MINDFORMERS` what MindFormers 1.9 does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from mindformers_codellama.config.sections_callbacks import CALLBACK_TYPES
from mindformers_codellama.errors import CodeLlamaError, ConfigError

OBS_PLACEHOLDER = "Please input obs url on AICC platform."


@dataclass(frozen=True)
class Refusal:
    """Values that ask for nothing, why others are refused, and what to write."""

    allowed: tuple[object, ...]
    why: str
    instead: str


_OFF = (False, None)

REFUSED: Mapping[str, Refusal] = {
    "auto_tune": Refusal(_OFF, "MindData's own tuning is not used.", "write False; num_parallel_workers sets the reading threads."),
    "profile": Refusal(
        _OFF, "MindSpore's profiler is not started from the configuration.", "write False and profile from outside, e.g. py-spy or msprof."
    ),
    "layer_scale": Refusal(_OFF, "one learning rate serves all layers.", "write False."),
    "lr_scale": Refusal(
        _OFF, "the learning rate is not scaled by the batch.", "write False and the learning rate you want in lr_schedule."
    ),
    "remote_save_url": Refusal(("", OBS_PLACEHOLDER), "nothing is uploaded.", "leave it empty and copy output_dir when the run has ended."),
    "train_dataset.numa_enable": Refusal(
        _OFF, "reading is not bound to a memory node.", "write False and start under `numactl --cpunodebind=N`."
    ),
    "train_dataset.eod_reset": Refusal(
        _OFF,
        "documents are separated when the file is prepared.",
        "write False, prepare with packing and read segment_ids and position_ids.",
    ),
    "train_dataset.auto_tune": Refusal(
        _OFF, "MindData's own tuning is not used.", "write False; num_parallel_workers sets the reading threads."
    ),
    "train_dataset.profile": Refusal(_OFF, "reading is not profiled.", "write False."),
    "callbacks.CheckpointMonitor.async_save": Refusal(
        _OFF, "a save is finished before the next step begins, so that it is whole.", "write False."
    ),
    "callbacks.CheckpointMonitor.keep_checkpoint_per_n_minutes": Refusal(
        (0, None), "saves are kept by number.", "write 0 and set keep_checkpoint_max."
    ),
    "callbacks.CheckpointMonitor.save_trainable_params": Refusal(_OFF, "every weight is trained.", "write False."),
    "context.enable_graph_kernel": Refusal(_OFF, "graph kernel fusion is not used.", "write False."),
    "recompute_config.select_recompute": Refusal(
        _OFF, "blocks are recomputed whole or not at all.", "write select_recompute: False and recompute: True."
    ),
    "parallel_config.expert_parallel": Refusal((1, None), "there are no experts.", "write 1."),
    "parallel_config.context_parallel": Refusal((1, None), "attention is not cut along positions.", "write 1."),
    "moe_config.expert_num": Refusal((1, None), "Code Llama has no experts.", "take moe_config out."),
    "model.model_config.qkv_concat": Refusal(_OFF, "query, key and value are three weights.", "write False."),
    "model.model_config.use_kvcache_op": Refusal(_OFF, "Ascend's cache operators are not used.", "write False and use_past: True."),
    "model.model_config.use_flash_attention": Refusal(_OFF, "attention is not fused on any device yet.", "write False."),
    "model.model_config.use_paged_attention": Refusal(
        _OFF,
        "the cache is not paged here; exported graphs can have a paged one.",
        "write False and use_past: True; export with --paged-blocks.",
    ),
    "model.model_config.fine_grain_interleave": Refusal((1, None), "it overlaps communication between ranks.", "write 1."),
    "model.model_config.tie_word_embeddings": Refusal(_OFF, "Code Llama and Llama 2 have an output head of their own.", "write False."),
}
"""Key (callbacks by type, both datasets under `train_dataset`) to what is refused about it."""

_NATIVE_ONLY = "MindFormers 1.9 has no such switch."
_OVERWRITTEN = "MindFormers 1.9 overwrites it with the key of the same name at the top."

REFUSED_MINDFORMERS: Mapping[str, Refusal] = {
    "run_mode": Refusal(("train", "finetune", "eval", "predict"), "MindFormers 1.9 exports no MindIR.", "write engine: native to export."),
    "train_dataset.input_columns": Refusal(
        (("input_ids",), ("input_ids", "labels")),
        "MindFormers 1.9 does not keep packed samples apart.",
        'prepare the data without --pack and write ["input_ids", "labels"].',
    ),
    "train_dataset.seed": Refusal((None,), _OVERWRITTEN, "set seed at the top."),
    "train_dataset.auto_tune": Refusal(_OFF, _OVERWRITTEN, "set auto_tune at the top."),
    "train_dataset.profile": Refusal(_OFF, _OVERWRITTEN, "set profile at the top."),
    "context.enable_graph_kernel": Refusal(_OFF, "MindFormers 1.9 does not apply it.", "write False."),
    "parallel_config.expert_parallel": REFUSED["parallel_config.expert_parallel"],
    "moe_config.expert_num": REFUSED["moe_config.expert_num"],
    "model.model_config.use_kvcache_op": Refusal(_OFF, "the cache of MindFormers 1.9 is always paged.", "write False and use_past: True."),
    "model.model_config.num_beams": Refusal((1,), "MindFormers 1.9 has no beam search.", "write 1."),
    "model.model_config.pet_config.pet_type": Refusal((), "adapters are not handed on to MindFormers.", "write engine: native."),
    "compat.cosine_rises_again": Refusal(_OFF, _NATIVE_ONLY, "write False."),
    "compat.no_decay_leak": Refusal(_OFF, _NATIVE_ONLY, "write False."),
    "compat.perplexity_counts_pads": Refusal(_OFF, _NATIVE_ONLY, "write False."),
}
"""The same for `engine: mindformers`: switches that only the native engine lacks are not in it."""

TABLES: Mapping[str, Mapping[str, Refusal]] = {"native": REFUSED, "mindformers": REFUSED_MINDFORMERS}
"""`engine` to what it refuses."""


def lookup_name(path: tuple[str | int, ...]) -> str:
    """The table's name of a key path; list positions stand for nothing."""
    name = ".".join(part for part in path if isinstance(part, str))
    for other, same in (("eval_dataset.", "train_dataset."), ("eval_callbacks.", "callbacks.")):
        if name.startswith(other):
            return same + name[len(other) :]
    return name


def refusal(path: tuple[str | int, ...], value: object, *, where: str, engine: str = "native") -> CodeLlamaError | None:
    """The error for a value that asks for something refused; None when it does not.

    Args:
        path: key path; a callback's position is followed by its canonical class name.
        value: the value read.
        where: the place named in the error.
        engine: whose table judges.
    """
    row = TABLES[engine].get(lookup_name(path))
    if row is None or any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in row.allowed):
        return None
    given = list(value) if isinstance(value, tuple) else value
    return ConfigError(where, f"got {given!r}, not available: {row.why}", fix=row.instead)


def refused_findings(section: Any, path: tuple[str | int, ...] = (), *, engine: str = "native") -> Iterator[CodeLlamaError]:
    """The same for a configuration built in Python: every refused value in the tree."""
    if is_dataclass(section) and not isinstance(section, type):
        if type(section) in CALLBACK_TYPES.values():
            path = (*path, type(section).__name__)
        for item in fields(section):
            yield from refused_findings(getattr(section, item.name), (*path, item.name), engine=engine)
    elif isinstance(section, tuple) and any(is_dataclass(item) for item in section):
        for item in section:
            yield from refused_findings(item, path, engine=engine)
    else:
        found = refusal(path, section, where=".".join(str(part) for part in path), engine=engine)
        if found:
            yield found
