"""A floating-point checkpoint to a directory of packed weights, a few rows in memory at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mindformers_codellama.checkpoint.convert import cast_weights, model_weights, progress_bar, source_paths
from mindformers_codellama.checkpoint.directories import Companions, copy_tokenizer, hf_files
from mindformers_codellama.checkpoint.files import (
    TEMPORARY_SUFFIX,
    FileRecord,
    refuse_existing_directory,
    require_space,
    staged_directory,
)
from mindformers_codellama.checkpoint.hf_config import generation_config, hf_config
from mindformers_codellama.checkpoint.model_source import config_from_shapes
from mindformers_codellama.checkpoint.open import CheckpointReader, open_checkpoint
from mindformers_codellama.checkpoint.packed_file import file_record, forget_file, mappable_bytes, write_mappable
from mindformers_codellama.checkpoint.packed_layout import slots
from mindformers_codellama.checkpoint.packed_manifest import (
    MANIFEST_FILE,
    PACKED_FILE,
    SCHEMES,
    PackedManifest,
    packed_folder,
    write_packed_manifest,
)
from mindformers_codellama.checkpoint.packed_open import packed_metadata
from mindformers_codellama.checkpoint.packed_write import pack_weights
from mindformers_codellama.checkpoint.report import WriteReport
from mindformers_codellama.checkpoint.tensors import LazyTensor, tensor_bytes
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.quantization.formats import DEFAULT_GROUP, LIMITS, check_form

SPARE_BYTES = 4 << 20
"""Room for the small files beside the weights."""


@dataclass(frozen=True, kw_only=True)
class QuantizeReport(WriteReport):
    """What packing did; `bytes_written` counts the whole file of weights."""

    scheme: str
    form: str
    group: int
    parameters: int
    bytes_read: int
    bits_per_weight: float
    """Of all bytes written, over the number of parameters."""
    errors: Mapping[str, Mapping[str, float]]
    """Tensor to `worst`, `mean` and others of `quantization.quantize.WeightError`; empty with `dry_run`."""
    evaluation: Mapping[str, Any]
    """Filled by `pipelines.compare_weights` when it was asked for."""


def quantize_checkpoint(  # noqa: PLR0913 - one value per fact, all named
    source: str | Path,
    target: str | Path,
    *,
    scheme: str,
    group: int = DEFAULT_GROUP,
    config: ModelConfig | None = None,
    tokenizer: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool | None = None,
) -> QuantizeReport:
    """Write a directory that prediction and evaluation open.

    Args:
        source: anything `open_checkpoint` takes.
        target: the directory.
        scheme: one of `SCHEMES`.
        group: columns that share a scale, 64 or 128; without meaning for bf16.
        config: the model's configuration, when the source does not carry it.
        tokenizer: tokenizer file or directory to copy, instead of what lies beside the source.
        force: replace an existing directory of packed weights.
        dry_run: check everything and write nothing.
        progress: show a bar on stderr; None when it is a terminal.

    Raises:
        CheckpointError: a source that is no complete floating-point Llama; an existing target; a full disk. Nothing is
            left behind.
        ConfigError: a scheme or group that is not known.
    """
    started = time.monotonic()
    form, group = form_of(scheme, group)
    reader, target = open_checkpoint(source), Path(target)
    _refuse_target(reader, target, force=force)
    model = config or reader.config or config_from_shapes(reader.path, reader.shapes())
    weights, _ = model_weights(reader, model)
    floats = cast_weights(reader.path, weights, "float32")
    sizes = slots(model, form, group)
    metadata = packed_metadata(form, group, "0" * 64)
    written = mappable_bytes(sizes, metadata)
    require_space(target, written + SPARE_BYTES)
    errors: dict[str, dict[str, float]] = {}
    if not dry_run:
        _remove_leftovers(target)
        with staged_directory(target, force=force, replaces=(PACKED_FILE, MANIFEST_FILE)) as stage:
            errors = _write(stage, reader, floats, model, (form, group), progress, target.name)
            _write_companions(stage, reader, model, (form, group), tokenizer)
    parameters = sum(tensor_bytes(tensor) for tensor in floats.values()) // 4
    return QuantizeReport(
        source=str(reader.path),
        source_format=str(reader.metadata["format"]),
        target=str(target),
        scheme=scheme,
        form=form,
        group=group,
        tensors=len(weights),
        parameters=parameters,
        bytes_read=sum(map(tensor_bytes, weights.values())),
        bytes_written=written,
        bits_per_weight=8 * written / parameters,
        errors=errors,
        evaluation={},
        dry_run=dry_run,
        seconds=time.monotonic() - started,
    )


def form_of(scheme: str, group: int) -> tuple[str, int]:
    """Form and group of a scheme; the group of bf16 is 0.

    Raises:
        CheckpointError, ConfigError: not known.
    """
    if scheme not in SCHEMES:
        raise CheckpointError("--scheme", f"got {scheme!r}.", fix=f"one of {', '.join(SCHEMES)}.")
    form = SCHEMES[scheme]
    group = group if form in LIMITS else 0
    check_form(form, group, where="--group-size")
    return form, group


def _refuse_target(reader: CheckpointReader, target: Path, *, force: bool) -> None:
    if target.resolve() in source_paths(reader):
        raise CheckpointError(target, "is the source; it would be overwritten while it is read.", fix="give another output.")
    refuse_existing_directory(target, force=force)
    others = target.is_dir() and any(not entry.name.endswith(TEMPORARY_SUFFIX) for entry in target.iterdir())
    if others and packed_folder(target) is None:
        fix = "give another name, or remove it yourself."
        raise CheckpointError(target, "is not empty and holds no packed weights; --force replaces packed weights alone.", fix=fix)


def _remove_leftovers(target: Path) -> None:
    """Take away what a killed run with this target left; a run that is still alive keeps its own."""
    for folder in (target.parent, target):
        for stage in folder.glob(f".{target.name}.*{TEMPORARY_SUFFIX}"):
            number = stage.name.removesuffix(TEMPORARY_SUFFIX).rpartition(".")[2]
            if number.isdecimal() and Path("/proc/self").exists() and not Path(f"/proc/{number}").exists():
                shutil.rmtree(stage, ignore_errors=True)


def _write(  # noqa: PLR0913 - what a file is made from
    stage: Path,
    reader: CheckpointReader,
    floats: Mapping[str, LazyTensor],
    model: ModelConfig,
    kind: tuple[str, int],
    progress: bool | None,
    name: str,
) -> dict[str, dict[str, float]]:
    """Weights and manifest; the errors."""
    form, group = kind
    source = source_description(reader)
    file = stage / PACKED_FILE
    total = sum(map(tensor_bytes, floats.values()))
    with (
        progress_bar(total, name, progress) as on_bytes,
        write_mappable(file, slots(model, form, group), metadata=packed_metadata(form, group, source["sha256"])) as out,
    ):
        found = pack_weights(floats, model, form, group, out, on_bytes=on_bytes)
    errors = {tensor: asdict(error) for tensor, error in found.items()}
    manifest = PackedManifest(form=form, group=group, model=model, files=(file_record(file),), source=source, errors=errors)
    forget_file(file)
    write_packed_manifest(stage / MANIFEST_FILE, manifest)
    return errors


def source_description(reader: CheckpointReader) -> dict[str, Any]:
    """Name, format, files and one checksum over all files of a checkpoint; checksums its manifest has are taken from there."""
    folder = reader.path if reader.path.is_dir() else reader.path.parent
    known = {entry["name"]: entry.get("sha256") for entry in reader.metadata.get("manifest", {}).get("files", [])}
    records: Sequence[FileRecord] = [
        FileRecord(name, (folder / name).stat().st_size, known[name]) if known.get(name) else file_record(folder / name)
        for name in reader.metadata["files"]
    ]
    digest = hashlib.sha256("".join(f"{record.name} {record.size} {record.sha256}\n" for record in records).encode())
    return {
        "name": reader.path.name,
        "format": reader.metadata["format"],
        "sha256": digest.hexdigest(),
        "files": [asdict(record) for record in records],
    }


def _write_companions(stage: Path, reader: CheckpointReader, model: ModelConfig, kind: tuple[str, int], tokenizer: Path | None) -> None:
    """config.json with what was packed, generation_config.json and the tokenizer."""
    folder = reader.path if reader.path.is_dir() else reader.path.parent
    from_hf = str(reader.metadata["format"]).startswith("hf-")
    said = hf_files(folder) if from_hf else reader.metadata.get("manifest", {}).get("hugging_face", {})
    said = said if model == reader.config else {}
    copy_tokenizer(stage, Companions(model, folder, said, tokenizer))
    if model.qkv_has_bias:
        return  # Hugging Face's Llama has no biases on q, k, v alone, so that its config.json cannot say it
    form, group = kind
    config = json.loads(said["config.json"]) if "config.json" in said else hf_config(model, "bfloat16")
    about = {"quant_method": "codellama_packed", "weights": form, "group_size": group, "symmetric": True, "embedding": "bfloat16"}
    config["quantization_config"] = about
    (stage / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    text = said.get("generation_config.json") or json.dumps(generation_config(model), indent=2) + "\n"
    (stage / "generation_config.json").write_text(text, encoding="utf-8")
