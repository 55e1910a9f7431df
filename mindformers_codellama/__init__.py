"""Code Llama on MindSpore.

The public names below are imported when first used, so `import mindformers_codellama` starts no
MindSpore. They include every name MindFormers' Code Llama scripts import from `mindformers`,
`mindformers.tools.utils` and `mindformers.trainer.utils`.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import Any

__version__ = "0.1.0"

_EXPORTS = MappingProxyType(
    {
        "AutoTokenizer": "text.auto",
        "ContextConfig": "config.mindformers_api",
        "GenerationConfig": "config.generation",
        "LlamaConfig": "config.mindformers_api",
        "LlamaForCausalLM": "pipelines.causal_lm",
        "LlamaTokenizer": "text.tokenizer",
        "MindFormerConfig": "config.mindformers_api",
        "ModelConfig": "config.model_config",
        "ParallelContextConfig": "config.mindformers_api",
        "TextIteratorStreamer": "generation.stream",
        "TextStreamer": "generation.stream",
        "TransformerOpParallelConfig": "config.mindformers_api",
        "chat_prompt_ids": "text.messages",
        "generate": "generation.loop",
        "get_last_checkpoint": "checkpoint.load",
        "infilling_prompt_ids": "text.infilling",
        "init_context": "parallel.start",
        "model_facts": "config.families",
        "pipeline": "pipelines.factory",
        "read_run": "config.read",
        "str2bool": "config.mindformers_api",
    }
)
"""Public name to the module that defines it."""

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted(__all__)
