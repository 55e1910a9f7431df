"""How MindFormers 1.9 differs from the dialect of 1.0 that our configuration speaks, as data.

Everything not named here is the same in both. Source: mindformers 1.9.0, `tools/register/template.py` (sections and
keys), the signatures of the classes named, and `core/context/build_context.py` (what of `context` is applied).
A test holds the tables against an installed MindFormers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MINDFORMERS_VERSION = "1.9."
"""Start of the versions whose configuration these tables describe."""
MINDSPORE_VERSION = "2.9."
"""Start of the versions of MindSpore that MindFormers 1.9 runs on."""

CALLBACKS: Mapping[str, str] = {
    "LossMonitor": "MFLossMonitor",
    "CheckpointMonitor": "CheckpointMonitor",
    "SummaryMonitor": "SummaryMonitor",
    "ObsMonitor": "",
}
"""Section of a callback (`CheckpointMointor` is read as `CheckpointMonitor`) to the class; empty is gone, and did nothing here."""


class Left(NamedTuple):
    """A key that is left out."""

    why: str
    loud: bool = False
    """Tell a person who set it to something else than the default."""


_OURS = Left("a section of this package")
_OVERWRITTEN = Left("overwritten by the key of the same name at the top")
_NOT_APPLIED = Left("MindFormers 1.9 does not apply it", loud=True)
_OLD = Left("an old switch without effect")

LEFT_OUT: Mapping[str, Left] = {
    "engine": Left("ours"),
    "kernels": Left("ours: C++ kernels of the native engine", loud=True),
    "weights": Left("ours: packed weights of the native engine", loud=True),
    "train_log": Left("MindFormers writes its own log; train.jsonl, TensorBoard and the curve are of the native engine", loud=True),
    "compat": _OURS,
    "input_data": Left("handed over as prompts"),
    "predict_batch_size": Left("handed over with the prompts"),
    "moe_config": Left("Code Llama has no experts"),
    "train_dataset.batch_size": Left("overwritten by runner_config.batch_size"),
    "train_dataset.seed": _OVERWRITTEN,
    "train_dataset.fim_rate": Left("ours: what the rows were made with, checked by the native engine", loud=True),
    "train_dataset.fim_spm_rate": Left("ours: as fim_rate", loud=True),
    "train_dataset.fim_line_rate": Left("ours: as fim_rate", loud=True),
    "train_dataset.auto_tune": _OVERWRITTEN,
    "train_dataset.filepath_prefix": _OVERWRITTEN,
    "train_dataset.autotune_per_step": _OVERWRITTEN,
    "train_dataset.profile": _OVERWRITTEN,
    "train_dataset_task.dataset_config": Left("set to the dataset"),
    "optimizer.learning_rate": Left("lr_schedule gives the rate"),
    "context.enable_graph_kernel": _NOT_APPLIED,
    "context.graph_kernel_flags": _NOT_APPLIED,
    "context.runtime_num_threads": _NOT_APPLIED,
    "model.model_config.use_kvcache_op": Left("gone: the cache is always paged"),
    "model.model_config.is_flexible_shape": Left("gone with use_kvcache_op"),
    "model.model_config.use_paged_attention": Left("gone: use_past always pages the cache"),
    "model.model_config.compute_in_2d": _OLD,
    "model.model_config.use_past_shard": _OLD,
    "model.model_config.pretrain_seqlen": Left("an old name of max_position_embedding"),
}
"""Keys (both datasets under `train_dataset`) MindFormers 1.9 does not get."""


class Change(NamedTuple):
    """A value that is written differently."""

    value: Any
    why: str = ""
    """Told when it is not empty."""


VALUES: Mapping[tuple[str, Any], Change] = {
    ("optimizer.type", "FP32StateAdamWeightDecay"): Change(
        "AdamWeightDecay",
        "FP32StateAdamWeightDecay is gone from MindFormers 1.9; mindspore.nn.AdamWeightDecay is the same for float32 weights",
    ),
    ("processor.tokenizer.type", "CodeLlamaTokenizer"): Change("LlamaTokenizer"),
    ("processor.tokenizer.type", "LlamaTokenizerFast"): Change("LlamaTokenizer"),
    ("runner_wrapper.type", "MFPipelineWithLossScaleCell"): Change("MFTrainOneStepCell"),  # MindFormers changes it back where it belongs
    ("parallel.parallel_optimizer_config.optimizer_weight_shard_size", -1): Change(None),  # the default of MindSpore
}
"""Key and value to the value MindFormers 1.9 gets; None leaves the key out."""

ADDED: Mapping[str, Any] = {
    "use_legacy": True,  # LlamaForCausalLM is one of the classes called legacy
    "use_legacy_format": True,  # checkpoints as `.ckpt` per rank
    "load_ckpt_format": "ckpt",
    "transform_process_num": 1,
}
"""Keys of MindFormers 1.9 that have no counterpart in 1.0."""

CPU_STEP = "ByValueTrainOneStepCell"
"""Our wrapper for CPUs, see `mindformers_cpu`."""

CPU_VALUES: Mapping[str, Change] = {
    "model.model_config.use_rope_slice": Change(True, "the form of the rotation whose operators a CPU has; the same numbers"),
    "model.model_config.fused_rms_norm": Change(False, "RmsNorm has no CPU kernel; the same rule in single operators"),
    "runner_wrapper.type": Change(CPU_STEP, "NPUGetFloatStatusV2 has no CPU kernel; overflow is seen in the gradients themselves"),
    "postprocess_use_numpy": Change(True, "tokens are chosen by numpy"),
}
"""What changes on a CPU so that MindFormers runs there at all."""

_TRAIN, _EVAL, _PREDICT = frozenset({"train", "finetune"}), frozenset({"eval"}), frozenset({"predict"})

SECTION_MODES: Mapping[str, frozenset[str]] = {
    "optimizer": _TRAIN,
    "lr_schedule": _TRAIN,
    "train_dataset": _TRAIN,
    "train_dataset_task": _TRAIN,
    "recompute_config": _TRAIN,
    "runner_wrapper": _TRAIN,
    "callbacks": _TRAIN,
    "metric": _TRAIN | _EVAL,
    "eval_dataset": _EVAL,
    "eval_dataset_task": _EVAL,
    "eval_callbacks": _EVAL,
    "processor": _PREDICT,
}
"""Sections MindFormers takes in some run modes only; `do_eval` adds those of `eval` to training."""
