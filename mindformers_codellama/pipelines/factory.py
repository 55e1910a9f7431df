"""`pipeline(task, model, tokenizer)`: MindFormers' way from a task's name to something that can be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mindformers_codellama.errors import ConfigError, GenerationError
from mindformers_codellama.pipelines.generating import CausalLM
from mindformers_codellama.pipelines.infilling import InfillingPipeline
from mindformers_codellama.pipelines.mindir_lm import ENGINE_OF, open_exported
from mindformers_codellama.pipelines.open_model import open_model
from mindformers_codellama.pipelines.text_generation import TextGenerationPipeline
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.tokenizer import LlamaTokenizer

Pipeline = TextGenerationPipeline | InfillingPipeline

TASKS: Mapping[str, Callable[..., Pipeline]] = MappingProxyType({"text_generation": TextGenerationPipeline, "infilling": InfillingPipeline})
"""Task to the pipeline that does it."""

BACKENDS = ("ms", *ENGINE_OF)


def pipeline(
    task: str,
    model: CausalLM | str | Path | tuple[str | Path, str | Path] | None = None,
    tokenizer: LlamaTokenizer | str | Path | None = None,
    *,
    backend: str = "ms",
    batch_size: int | None = None,
    **options: Any,
) -> Pipeline:
    """A pipeline for a task.

    Args:
        task: `text_generation` or `infilling`.
        model: a model, or what `pipelines.open_model` takes: a YAML file, a directory or file of weights, a registry name.
        tokenizer: a tokenizer, its directory or file, or a registry name; a model given as a path brings its own.
        backend: `ms`, MindSpore. Or exported graphs (`model` is their directory, or the graph for prompts and the one for
            single tokens): `mslite`, MindSpore Lite on Ascend, or `mindir`, MindSpore's own runner.
        batch_size: prompts answered at once; None takes the configuration's, 1 for a model object.
        options: generation options that hold for every call; with exported graphs also those of `mindir_lm.ExportOptions`
            (`model_name`, `ge_config_path`, `device_id`, `rank_id`, `infer_seq_length`, `dynamic`).

    Raises:
        ConfigError: unknown task, with the nearest name; another backend; nothing to open.
        GenerationError: no tokenizer, an unknown option, or a model that cannot infill.
    """
    if task not in TASKS:
        near = get_close_matches(task, TASKS, n=1, cutoff=0.5)
        fix = f"did you mean {near[0]}?" if near else f"known: {', '.join(TASKS)}."
        raise ConfigError("task", f"{task!r} is not known.", fix=fix)
    if backend not in BACKENDS:
        near = get_close_matches(backend, BACKENDS, n=1)
        fix = f"did you mean {near[0]}?" if near else f"one of {', '.join(BACKENDS)}."
        raise ConfigError("backend", f"{backend!r} is not available.", fix=fix)
    if model is None:
        raise GenerationError("model", f"{task} needs a model.", fix="give a LlamaForCausalLM, a YAML file or a directory with weights.")
    if isinstance(model, CausalLM):
        if tokenizer is None:
            raise GenerationError("tokenizer", f"{task} needs a tokenizer.", fix="give AutoTokenizer.from_pretrained(...).")
        words = tokenizer if isinstance(tokenizer, LlamaTokenizer) else AutoTokenizer.from_pretrained(tokenizer)
        return TASKS[task](model, words, batch_size=1 if batch_size is None else batch_size, **options)
    if backend in ENGINE_OF:
        exported, words, rest = open_exported(backend, model, tokenizer, options)
        return TASKS[task](exported, words, batch_size=exported.manifest.batch_size if batch_size is None else batch_size, **rest)
    if isinstance(model, tuple):
        problem = "got two files, which are exported graphs."
        raise ConfigError("backend", problem, fix=f"give backend={' or '.join(map(repr, ENGINE_OF))} with them.")
    named = tokenizer.path if isinstance(tokenizer, LlamaTokenizer) else tokenizer
    opened = open_model(model, tokenizer="" if named is None else str(named), infills=task == "infilling")
    words = tokenizer if isinstance(tokenizer, LlamaTokenizer) else opened.tokenizer
    if task == "infilling":
        options["name"] = opened.name
    return TASKS[task](opened.model, words, batch_size=opened.batch_size if batch_size is None else batch_size, **options)
