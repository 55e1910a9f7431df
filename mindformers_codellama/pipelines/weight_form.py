"""The form of a model's weights: what is asked for, what a checkpoint has, and the model that comes of both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mindformers_codellama.checkpoint.adapter_format import Adapter, read_adapter
from mindformers_codellama.checkpoint.adapter_merge import merged_weights
from mindformers_codellama.checkpoint.convert import cast_weights, model_weights
from mindformers_codellama.checkpoint.load import compare_configs
from mindformers_codellama.checkpoint.open import CheckpointReader, open_checkpoint
from mindformers_codellama.checkpoint.packed_floats import packed_reader, rounded_reader
from mindformers_codellama.checkpoint.packed_layout import packed_model, slots
from mindformers_codellama.checkpoint.packed_manifest import packed_folder
from mindformers_codellama.checkpoint.packed_model import SCALED_FORMS, PackedModel
from mindformers_codellama.checkpoint.packed_open import PackedCheckpoint, open_packed
from mindformers_codellama.checkpoint.packed_write import InMemory, pack_weights
from mindformers_codellama.checkpoint.report import compare, difference_errors
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.weight_forms import WEIGHT_FORMS
from mindformers_codellama.errors import CheckpointError, ConfigError, raise_all
from mindformers_codellama.kernels.choose import kernels_in_use
from mindformers_codellama.pipelines.adapters import SWITCH, NamedAdapter, PackedAdapters, own_name, use_adapters
from mindformers_codellama.pipelines.causal_lm import LlamaForCausalLM, existing
from mindformers_codellama.pipelines.generating import CausalLM
from mindformers_codellama.pipelines.packed_lm import PackedCausalLM
from mindformers_codellama.pipelines.ranks import ONE, Ranks
from mindformers_codellama.quantization.formats import DEFAULT_GROUP
from mindformers_codellama.runtime.context import current_device

logger = logging.getLogger(__name__)


def open_causal_lm(
    config: ModelConfig,
    checkpoint: str | Path = "",
    *,
    form: str = "auto",
    generation: GenerationConfig | None = None,
    seed: int = 0,
    ranks: Ranks = ONE,
    adapters: Sequence[NamedAdapter] = (),
) -> CausalLM:
    """A model that generates, with its weights in the form asked for and an adapter in use.

    `auto` takes a packed directory as it is, and for other checkpoints a network of the configuration's types. Packed weights
    (made here, or mapped from a file) need the kernels; without them a float32 network gets the values they stand for. A network keeps
    its adapters beside its weights; one adapter is merged into weights that are packed here, as `merged_reader`.

    Args:
        config: of the model; a packed directory must have its sizes.
        checkpoint: anything `open_checkpoint` takes, or a directory of packed weights; empty leaves random weights.
        form: `auto`, `float32`, `bfloat16`, `int8` or `int4`.
        generation: options to start from.
        seed: of random weights.
        ranks: the ranks that hold the model together.
        adapters: low-rank adapters; the first is used.

    Raises:
        ConfigError: an unknown form; packed weights on several ranks or on another device than the CPU, or without a checkpoint;
            several adapters for packed weights, or one for weights that are packed already.
        CheckpointError: weights that are damaged, of another model, or already packed in another form; adapters as `read_adapter`.
    """
    if form not in WEIGHT_FORMS:
        raise ConfigError("weights", f"got {form!r}.", fix=f"one of {', '.join(WEIGHT_FORMS)}.")
    folder = packed_folder(existing(checkpoint)) if str(checkpoint) else None
    if folder is None and form in ("auto", "float32"):
        if form == "float32":
            config = replace(config, compute_dtype="float32", param_init_dtype="float32")
        network = LlamaForCausalLM(config, checkpoint=checkpoint, generation=generation, seed=seed, ranks=ranks)
        use_adapters(network, adapters)
        return network
    raise_all(packed_findings(form if folder is None else f"{checkpoint} (packed)", ranks))
    if folder is not None:
        packed = open_fitting(folder, config, form)
        _require_no_adapter(packed, adapters)
        if kernels_in_use():
            return PackedCausalLM(packed.model(config), generation=generation)
        return _restored(packed_reader(packed), config, packed.manifest.form, generation)
    if not str(checkpoint):
        raise ConfigError("weights", f"got {form!r}, but there are no weights to pack.", fix="name a checkpoint, or write weights: auto.")
    _require_one_adapter(form, adapters)
    reader = open_checkpoint(existing(checkpoint))
    compare_configs(reader, config)
    merged = None
    for name, path in adapters:
        reader, merged = merged_reader(reader, config, read_adapter(path)), name or own_name(Path(path))
    if kernels_in_use():
        return PackedCausalLM(packed_from(reader, config, form), generation=generation, adapter=merged)
    return _restored(rounded_reader(reader, config, form, group_of(form)), config, form, generation, adapter=merged)


def packed_findings(what: str, ranks: Ranks) -> list[ConfigError]:
    """Where packed weights cannot be used."""
    found = []
    if current_device() != "CPU":
        fix = "write device_target: CPU, or weights: auto with a floating-point checkpoint."
        found.append(ConfigError("weights", f"got {what}, but packed weights are computed by CPU kernels.", fix=fix))
    if not ranks.comm.is_alone:
        problem = f"got {what} on {ranks.comm.layout.ranks} ranks, but packed weights are not cut over ranks."
        found.append(ConfigError("weights", problem, fix="write use_parallel: False, or weights: auto with a floating-point checkpoint."))
    return found


def open_fitting(folder: Path, config: ModelConfig, form: str) -> PackedCheckpoint:
    """A packed directory of this model, in this form.

    Raises:
        CheckpointError: another form or model; as `open_packed`.
    """
    packed = open_packed(folder)
    held = packed.manifest.form
    if form not in ("auto", held):
        origin = packed.manifest.source.get("name", "unknown")
        problem = f"holds {held} weights, and weights: {form} was asked for; packing them again would add the errors of both."
        raise CheckpointError(folder, problem, fix=f"ask for weights: {held} (or auto), or give the original checkpoint ({origin}).")
    found, needed = (expected_shapes(Sizes.of(one)) for one in (packed.manifest.model, config))
    raise_all(difference_errors(folder, compare(found, needed), found, needed))
    compare_configs(CheckpointReader(folder, {}, {}, packed.manifest.model), config)
    return packed


def merged_reader(reader: CheckpointReader, config: ModelConfig, adapter: Adapter) -> CheckpointReader:
    """A checkpoint with an adapter in its weights, each made when it is read.

    Every weight is what `codellama merge-lora` writes when it is not told a type: the sum in float32, rounded once to the type the
    weight is stored in. So packing at load and merging, then packing, give the same bytes, which a sum kept in float32 would not.

    Raises:
        CheckpointError: it is no complete checkpoint of this model; an adapter of another model.
    """
    merged = merged_weights(model_weights(reader, config)[0], adapter)
    logger.info("merging %s into %d weights of %s", adapter.path, len(adapter.weights), reader.path)
    return replace(reader, tensors=merged)


def packed_from(reader: CheckpointReader, config: ModelConfig, form: str) -> PackedModel:
    """Packed weights made from floating-point ones, a few rows at a time; the same bytes as `codellama quantize` writes.

    Raises:
        CheckpointError: it is no complete checkpoint of this model.
    """
    group = group_of(form)
    floats = cast_weights(reader.path, model_weights(reader, config)[0], "float32")
    made = InMemory(slots(config, form, group))
    pack_weights(floats, config, form, group, made, measure=False)
    logger.info("packed %d tensors of %s as %s", len(floats), reader.path, form)
    return packed_model(config, form, group, made.arrays)


def group_of(form: str) -> int:
    """Columns that share a scale in weights made at load."""
    return DEFAULT_GROUP if form in SCALED_FORMS else 0


def _require_one_adapter(form: str, adapters: Sequence[NamedAdapter]) -> None:
    if len(adapters) > 1:
        names = ", ".join(name or own_name(Path(path)) for name, path in adapters)
        problem = f"got {len(adapters)} ({names}), but into weights packed as {form} one is merged, and it cannot be switched."
        raise ConfigError("adapter", problem, fix=f"give one; {SWITCH}.")


def _require_no_adapter(packed: PackedCheckpoint, adapters: Sequence[NamedAdapter]) -> None:
    if adapters:
        form, origin = packed.manifest.form, packed.manifest.source.get("name", "unknown")
        problem = f"{packed.path} is packed as {form} already; an adapter is merged into weights before they are packed."
        fix = f"give the original checkpoint ({origin}), weights: {form} (--weights {form}) and the adapter; or merge-lora, then quantize."
        raise ConfigError("adapter", problem, fix=fix)


def _restored(
    reader: CheckpointReader, config: ModelConfig, form: str, generation: GenerationConfig | None, adapter: str | None = None
) -> LlamaForCausalLM:
    """A float32 network with the values of packed weights."""
    logger.warning(
        "weights: %s need the kernels, which are off or cannot be used: a float32 network computes with the same values, "
        "in four or more times the memory and without rounding what they are multiplied with.",
        form,
    )
    config = replace(config, compute_dtype="float32", param_init_dtype="float32")
    network = LlamaForCausalLM(config, checkpoint=reader, generation=generation)
    network.adapter_set = PackedAdapters(form, adapter)
    return network
