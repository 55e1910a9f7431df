"""A model with weights, tokenizer and options, from whatever a person has: a YAML file, a directory, a name."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindformers_codellama.checkpoint.hf_config import end_token_ids
from mindformers_codellama.checkpoint.packed_open import checkpoint_config
from mindformers_codellama.config.check import require_engine
from mindformers_codellama.config.check_adapter import adapter_notes
from mindformers_codellama.config.families import FAMILIES, model_facts
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.read import read_run
from mindformers_codellama.config.sections import RunConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.demo import shipped_model
from mindformers_codellama.errors import CheckpointError, ConfigError, raise_all
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.layout.cuts import run_layout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.parallel.comm import SINGLE, Comm, require_started
from mindformers_codellama.pipelines.adapters import NamedAdapter, split_name
from mindformers_codellama.pipelines.generating import CausalLM
from mindformers_codellama.pipelines.ranks import degree_findings, join_ranks
from mindformers_codellama.pipelines.weight_form import open_causal_lm
from mindformers_codellama.runtime.context import enter_context
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.infilling import require_infilling, require_trained_infilling
from mindformers_codellama.text.model_file import MODEL_FILE
from mindformers_codellama.text.tokenizer import LlamaTokenizer

logger = logging.getLogger(__name__)

YAML_SUFFIXES = (".yaml", ".yml")
ANSWER_LENGTH = 256
"""Longest answer of a model that comes without generation options."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to build, before anything is built."""

    config: ModelConfig
    generation: GenerationConfig
    weights: str
    """Checkpoint to load; empty leaves initial weights."""
    tokenizer: str
    """File, directory or registry name."""
    tokenizer_options: dict[str, Any]
    name: str
    """Registry name; empty when unknown."""
    context: ContextSection
    batch_size: int
    seed: int
    """Of initial weights."""
    layout: Layout = Layout()
    """Ranks that hold the model together."""
    vocabulary_cut: bool = False
    """They share embedding and head as well."""
    strategy: str = ""
    """Strategy file or folder of weights in `rank_N` folders."""
    form: str = "auto"
    """Form the weights are held in, as the key `weights`."""
    kernels: str = "auto"
    """The key `kernels`."""
    infills: bool = False
    """It is asked to fill in the middle; one that cannot is refused before its weights are read."""
    adapters: tuple[NamedAdapter, ...] = ()
    """Low-rank adapters to load: those asked for, then the model's own; the first is used."""


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """Ready to generate."""

    model: CausalLM
    tokenizer: LlamaTokenizer
    generation: GenerationConfig
    prompt_style: str
    """How the registry says this model is asked; `completion` when it is not there."""
    batch_size: int
    name: str = ""
    """Registry name; empty when unknown."""
    comm: Comm = SINGLE
    """This process among the ranks that hold the model; all of them generate, one shows it."""
    weights: str = ""
    """Checkpoint that was loaded; empty when the weights are random."""
    adapters: tuple[str, ...] = ()
    """Directories of the low-rank adapters it was opened with; the first is in use."""


def is_yaml(source: str | Path) -> bool:
    """Whether a source is meant as a configuration file."""
    return Path(source).suffix.lower() in YAML_SUFFIXES


def open_model(  # noqa: PLR0913 - what a person may say about a model, all named
    source: str | Path,
    *,
    load_checkpoint: str = "",
    tokenizer: str = "",
    seq_length: int | None = None,
    dtype: str | None = None,
    weights: str | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    world_size: int | None = None,
    alone: str = "",
    infills: bool = False,
    adapters: Sequence[str] = (),
) -> OpenedModel:
    """Build a model and fill it with weights.

    Args:
        source: a YAML file; a directory or file of weights that says its sizes (Hugging Face's `config.json`, or
            our manifest; packed weights too); or a registry name with `load_checkpoint`.
        load_checkpoint: weights, instead of the source's own.
        tokenizer: `tokenizer.model`, its directory or a registry name, instead of the source's own.
        seq_length: positions for prompt and answer together.
        dtype: type of weights and of products.
        weights: form the weights are held in, as the key `weights`; None is the source's.
        device: `CPU` or `Ascend`; else the YAML file's, or the CPU.
        overrides: `key=value` for a YAML file.
        world_size: ranks that hold the model together, at least 1; else the YAML file's layout, or one.
        alone: what it is for, when that is refused on several ranks.
        infills: refuse a model that cannot fill in the middle, before its weights are read.
        adapters: low-rank adapters, `NAME=DIR` or `DIR`; the first is used. Packed weights take one.

    Raises:
        ConfigError, CheckpointError, TokenizerError: what is wrong with any of these.
        GenerationError: `infills`, and the model cannot.
    """
    found = find_source(source, overrides)
    found = dataclasses.replace(found, infills=infills, adapters=(*map(split_name, adapters), *found.adapters))
    if infills:
        require_trained_infilling(found.config, found.name)
    if world_size is not None:
        found = dataclasses.replace(found, layout=Layout(model_parallel=world_size))
    if alone and found.layout.ranks > 1:
        problem = f"asks for {found.layout.ranks} ranks (layout {found.layout}), but {alone} needs one process."
        other = "" if infills else ", or give `codellama predict` the prompts as arguments or in a file"
        fix = f"--set use_parallel=False{other}."
        raise ConfigError("use_parallel", problem, fix=fix)
    config, context = found.config, found.context
    if seq_length is not None:
        config = dataclasses.replace(config, seq_length=seq_length)
    if dtype is not None:
        config = dataclasses.replace(config, compute_dtype=dtype, param_init_dtype=dtype)
    context = dataclasses.replace(context, device_target=context.device_target if device is None else device)
    found = dataclasses.replace(found, weights=load_checkpoint or found.weights, form=found.form if weights is None else weights)
    if tokenizer:
        found = dataclasses.replace(found, tokenizer=tokenizer, tokenizer_options={})
    return open_source(dataclasses.replace(found, config=config, context=context))


def open_run(run: RunConfig) -> OpenedModel:
    """The same for a configuration that is already read."""
    return open_source(source_of_run(run))


def open_source(source: Source) -> OpenedModel:
    """Build, load, check."""
    raise_all(degree_findings(source.config, source.layout))
    require_started(source.layout)
    if not source.tokenizer:
        fix = "write processor.tokenizer.vocab_file: PATH (or give --tokenizer PATH)."
        raise ConfigError("processor.tokenizer.vocab_file", "no tokenizer is named, and trainer.model_name is empty.", fix=fix)
    words = AutoTokenizer.from_pretrained(source.tokenizer, **source.tokenizer_options)
    if source.infills:
        require_infilling(words, source.config, source.name)
    enter_context(source.context)
    choose_kernels(source.kernels, device=source.context.device_target, threads=source.context.runtime_num_threads)
    config = source.config
    ranks = join_ranks(config, source.layout, vocabulary_cut=source.vocabulary_cut, strategy=source.strategy)
    if not source.weights:
        logger.warning("no checkpoint given: the weights are random (seed %d) and so will be the text.", source.seed)
    model = open_causal_lm(
        config, source.weights, form=source.form, generation=source.generation, seed=source.seed, ranks=ranks, adapters=source.adapters
    )
    style = FAMILIES[source.name].prompt_style if source.name in FAMILIES else "completion"
    return OpenedModel(
        model=model,
        tokenizer=words,
        generation=source.generation,
        prompt_style=style,
        batch_size=source.batch_size,
        name=source.name,
        comm=ranks.comm,
        weights=source.weights,
        adapters=tuple(folder for _, folder in source.adapters),
    )


def find_source(source: str | Path, overrides: Sequence[str] = ()) -> Source:
    """Find out what a source means.

    Raises:
        ConfigError: nothing of that name.
        CheckpointError: weights that do not say their sizes.
    """
    path = Path(source).expanduser()
    if is_yaml(path):
        return source_of_run(read_run(path, overrides=overrides))
    if path.exists():
        return _source_of_weights(path)
    if shipped := shipped_model(str(source)):
        name = str(source).lower().replace("-", "_")
        return dataclasses.replace(_source_of_weights(shipped[0]), name=name, adapters=(("", str(shipped[1])),) if shipped[1] else ())
    if str(source) in FAMILIES:
        return _source_of_name(str(source))
    fix = f"give a YAML file, a directory with weights, or one of {', '.join(FAMILIES)}."
    raise ConfigError(str(source), "is no file, no directory and no model name.", fix=fix)


def source_of_run(run: RunConfig) -> Source:
    """What a configuration says.

    Raises:
        ConfigError: it asks for another engine.
    """
    require_engine(run, "native")
    for note in adapter_notes(dataclasses.replace(run, run_mode="predict")):
        logger.warning("%s", note)
    section = run.processor.tokenizer
    options = {
        key: getattr(section, key)
        for key in ("unk_token", "bos_token", "eos_token", "pad_token", "add_bos_token", "add_eos_token", "legacy", "padding_side")
    }
    beside = Path(run.start_weights) if run.start_weights else None
    tokenizer = section.vocab_file or run.trainer.model_name
    if not section.vocab_file and beside is not None and (beside / MODEL_FILE).is_file():
        tokenizer, options = str(beside), {}
    return Source(
        config=run.model.config,
        generation=run.model.generation,
        weights=run.start_weights,
        tokenizer=tokenizer,
        tokenizer_options=options if section.vocab_file else {},
        name=run.trainer.model_name,
        context=run.context,
        batch_size=run.predict_batch_size or run.model.batch_size,
        seed=run.seed,
        layout=run_layout(run),
        vocabulary_cut=not run.parallel_config.vocab_emb_dp,
        strategy=run.src_strategy_path_or_dir,
        form=run.weights,
        kernels=run.kernels,
    )


def _source_of_weights(path: Path) -> Source:
    config = checkpoint_config(path)
    if config is None:
        fix = "give the YAML file of the model and --load-checkpoint, or a directory with config.json."
        raise CheckpointError(path, "does not say the sizes of its model.", fix=fix)
    folder = path if path.is_dir() else path.parent
    name = next((key for key in FAMILIES if folder.name.lower().replace("-", "_").removesuffix("_hf") == key), "")
    return _plain_source(
        config,
        str(path),
        str(folder if (folder / MODEL_FILE).is_file() else name or folder),
        name,
        end_token_ids(folder) or (config.eos_token_id,),
    )


def _source_of_name(name: str) -> Source:
    facts = model_facts(name)
    return _plain_source(facts.config, "", name, name, facts.stop_token_ids)


def _plain_source(config: ModelConfig, weights: str, tokenizer: str, name: str, ends: tuple[int, ...]) -> Source:
    """Options of a model that has no YAML file: greedy, with a cache, answers of at most `ANSWER_LENGTH` tokens."""
    generation = GenerationConfig(
        max_new_tokens=ANSWER_LENGTH,
        eos_token_ids=ends,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        use_past=True,
    )
    return Source(
        config=config,
        generation=generation,
        weights=weights,
        tokenizer=tokenizer,
        tokenizer_options={},
        name=name,
        context=ContextSection(device_target="CPU"),
        batch_size=1,
        seed=0,
    )
