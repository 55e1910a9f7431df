"""Checkpoint to checkpoint, one piece of one tensor in memory at a time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mindformers_codellama.checkpoint.adapter_format import read_adapter
from mindformers_codellama.checkpoint.adapter_merge import merged_weights
from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.directories import MAX_SHARD_BYTES, TOKENIZER_FILES, Companions, hf_files, write_hf, write_ours
from mindformers_codellama.checkpoint.dtypes import WEIGHT_DTYPES
from mindformers_codellama.checkpoint.files import FileRecord, refuse_existing, refuse_existing_directory, require_space
from mindformers_codellama.checkpoint.manifest import manifest_path, write_manifest
from mindformers_codellama.checkpoint.meta_format import pairs_to_halves
from mindformers_codellama.checkpoint.model_source import config_from_shapes
from mindformers_codellama.checkpoint.open import CheckpointReader, open_checkpoint
from mindformers_codellama.checkpoint.report import WriteReport, compare, difference_errors
from mindformers_codellama.checkpoint.safetensors_format import write_safetensors
from mindformers_codellama.checkpoint.tensors import CastTensor, ComputedTensor, LazyTensor, tensor_bytes
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes, is_training_state
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError, raise_all

TARGETS = ("ms", "hf", "safetensors")
"""MindSpore .ckpt; Hugging Face directory; safetensors with MindFormers' names (a file or a directory)."""


@dataclass(frozen=True)
class Options:
    """Rarely needed settings of a conversion."""

    dry_run: bool = False
    """Check everything and write nothing."""
    max_shard_bytes: int = MAX_SHARD_BYTES
    """Largest weight file of a directory."""
    tokenizer: Path | None = None
    """Tokenizer file or directory to copy into a directory."""
    rotary_pairs: Path | None = None
    """Meta's params.json of a .ckpt of MindFormers before 0.6, whose wq and wk are in Meta's order."""
    adapter: Path | None = None
    """Directory of a low-rank adapter to add to the weights."""


@dataclass(frozen=True, kw_only=True)
class ConvertReport(WriteReport):
    """What a conversion did."""

    target_format: str
    parameters: int
    bytes_read: int
    dtypes: tuple[str, ...]
    files: tuple[FileRecord, ...]
    left_out: tuple[str, ...]
    """Stored rotary angles, caches, optimizer state."""
    notes: tuple[str, ...]
    """Worth knowing, but nothing is wrong."""


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    to: str | None = None,
    dtype: str = "keep",
    force: bool = False,
    progress: bool | None = None,
    config: ModelConfig | None = None,
    options: Options | None = None,
) -> ConvertReport:
    """Convert a checkpoint.

    Args:
        src: anything `open_checkpoint` takes.
        dst: a `.ckpt` file, a `.safetensors` file, or a directory.
        to: one of `TARGETS`; None follows from the name of `dst`, where a directory means the other of Hugging Face and ours.
        dtype: `keep`, or one type for every tensor.
        force: replace an existing output.
        progress: show a bar on stderr; None when it is a terminal.
        config: the model's configuration, when the source does not carry it or it should be checked against another.
        options: rarely needed settings.

    Raises:
        CheckpointError: all missing, unexpected and mis-shaped tensors at once; unsupported element types; values
            that do not fit float16; an existing output; a full disk. Nothing is left behind.
    """
    started = time.monotonic()
    options = options or Options()
    reader, dst = open_checkpoint(src), Path(dst)
    target = _target(reader, dst, to)
    if dst.resolve() in source_paths(reader):
        raise CheckpointError(dst, "is the source; it would be overwritten while it is read.", fix="give another output.")
    is_file = target == "ms" or dst.suffix == ".safetensors"
    (refuse_existing if is_file else refuse_existing_directory)(dst, force=force)
    model = config or reader.config
    if target == "hf" and model is None:
        model = config_from_shapes(reader.path, reader.shapes())
    weights, left_out = model_weights(reader, model)
    if options.rotary_pairs is not None:
        weights = _pairs_to_halves(weights, options.rotary_pairs)
    if options.adapter is not None:
        weights = merged_weights(weights, read_adapter(options.adapter), dtype=dtype)
    weights = cast_weights(reader.path, weights, dtype)
    files: list[FileRecord] = []
    if not options.dry_run:
        beside = _companions(reader, model, options)
        files = _write(target, dst, weights, beside, options.max_shard_bytes, force, progress)
        if target != "hf":
            _describe(reader, dst, weights, beside, files)
    return ConvertReport(
        source=str(reader.path),
        source_format=str(reader.metadata["format"]),
        target=str(dst),
        target_format=target,
        **_sizes(reader, weights),
        files=tuple(files),
        left_out=(*reader.dropped, *left_out),
        notes=_notes(dst, is_file, options),
        dry_run=options.dry_run,
        seconds=time.monotonic() - started,
    )


def _sizes(reader: CheckpointReader, weights: Mapping[str, LazyTensor]) -> dict[str, Any]:
    return {
        "tensors": len(weights),
        "parameters": sum(math.prod(tensor.shape) for tensor in weights.values()),
        "bytes_read": sum(tensor_bytes(reader.tensor(name)) for name in weights),
        "bytes_written": sum(tensor_bytes(tensor) for tensor in weights.values()),
        "dtypes": _dtypes(weights),
    }


def _target(reader: CheckpointReader, dst: Path, to: str | None) -> str:
    """What to write, from the wish and the name of the output."""
    by_suffix = {".ckpt": "ms", ".safetensors": "safetensors"}.get(dst.suffix)
    if to is None:
        ours = str(reader.metadata["format"]).startswith("ms-")
        to = by_suffix or ("hf" if ours else "safetensors")
    if to not in TARGETS:
        raise CheckpointError("--to", f"got {to!r}.", fix=f"one of {', '.join(TARGETS)}.")
    if to == "ms" and dst.suffix != ".ckpt":
        raise CheckpointError(dst, "is the output for a MindSpore checkpoint, which is a file ending in .ckpt.", fix=f"write {dst}.ckpt.")
    if to == "hf" and dst.suffix in (".ckpt", ".safetensors", ".bin", ".pth", ".pt"):
        fix = f"write {dst.with_suffix('')}; transformers loads the directory."
        raise CheckpointError(dst, "is a file name, but a Hugging Face checkpoint is a directory of safetensors.", fix=fix)
    if to == "safetensors" and by_suffix == "ms":
        raise CheckpointError(dst, "ends in .ckpt, but safetensors were asked for.", fix="--to ms, or another name.")
    return to


def source_paths(reader: CheckpointReader) -> set[Path]:
    """The directory or file a checkpoint was opened by, and its files."""
    folder = reader.path if reader.path.is_dir() else reader.path.parent
    return {path.resolve() for path in (reader.path, *(folder / name for name in reader.metadata["files"]))}


def model_weights(reader: CheckpointReader, config: ModelConfig | None) -> tuple[dict[str, LazyTensor], list[str]]:
    """Weights in the order of the model, complete and of the right shapes; and the names left out."""
    left_out = [name for name in reader.names() if is_training_state(name)]
    found = {name: shape for name, shape in reader.shapes().items() if name not in left_out}
    sizes = Sizes.of(config) if config is not None else Sizes.found_in(found)
    if sizes is None:
        some = ", ".join(list(found)[:3]) or "no tensor"
        raise CheckpointError(reader.path, f"is not a Llama checkpoint; it holds {some}.")
    needed = expected_shapes(sizes)
    raise_all(difference_errors(reader.path, compare(found, needed), found, needed))
    return {name: reader.tensor(name) for name in needed}, left_out


def cast_weights(where: Path, weights: Mapping[str, LazyTensor], dtype: str) -> dict[str, LazyTensor]:
    """Weights in one type, or checked and as they are for `keep`.

    Raises:
        CheckpointError: an unknown type; tensors that are no floating-point weights.
    """
    if dtype != "keep" and dtype not in WEIGHT_DTYPES:
        raise CheckpointError("--dtype", f"got {dtype!r}.", fix=f"keep, {', '.join(WEIGHT_DTYPES)}.")
    castable = WEIGHT_DTYPES if dtype == "keep" else (*WEIGHT_DTYPES, "float64")
    fix = "--dtype float32." if dtype == "keep" else "convert the checkpoint before quantisation."
    wrong = [name for name, tensor in weights.items() if tensor.dtype not in castable]
    raise_all(
        CheckpointError(
            f"{where}: {name}",
            f"is {weights[name].dtype}, which a weight cannot be.",
            fix=fix if weights[name].dtype == "float64" else "convert the checkpoint before quantisation.",
        )
        for name in wrong
    )
    if dtype == "keep":
        return dict(weights)
    return {name: t if t.dtype == dtype else CastTensor(t, dtype, f"{where}: {name}") for name, t in weights.items()}


def _pairs_to_halves(weights: Mapping[str, LazyTensor], params: Path) -> dict[str, LazyTensor]:
    """Wq and wk in today's rotary order."""
    try:
        values = json.loads(params.read_text(encoding="utf-8"))
        heads = {"wq": int(values["n_heads"]), "wk": int(values.get("n_kv_heads") or values["n_heads"])}
    except OSError as error:
        raise CheckpointError(params, f"cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(params, "is not Meta's params.json; it needs n_heads.") from error
    changed = dict(weights)
    for name, tensor in weights.items():
        kind = next((kind for kind in heads if f".{kind}." in name), None)
        if kind is None:
            continue
        if tensor.shape[0] % (2 * heads[kind]):
            raise CheckpointError(params, f"{heads[kind]} heads do not divide the {tensor.shape[0]} rows of {name} into pairs.")
        changed[name] = ComputedTensor(tensor.shape, tensor.dtype, lambda t=tensor, n=heads[kind]: pairs_to_halves(t.read(), n))  # type: ignore[misc]
    return changed


def _notes(dst: Path, is_file: bool, options: Options) -> tuple[str, ...]:
    if is_file or options.dry_run or any((dst / name).is_file() for name in TOKENIZER_FILES):
        return ()
    return ("no tokenizer files beside the source; give --tokenizer to have them in the directory.",)


def _dtypes(weights: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    return tuple(sorted({tensor.dtype for tensor in weights.values()}))


def _companions(reader: CheckpointReader, model: ModelConfig | None, options: Options) -> Companions:
    """What goes beside the weights; Hugging Face's own config.json only while it says the same model."""
    folder = reader.path if reader.path.is_dir() else reader.path.parent
    said: Mapping[str, str] = {}
    if model is not None and model == reader.config:
        from_hf = str(reader.metadata["format"]).startswith("hf-")
        said = hf_files(folder) if from_hf else reader.metadata.get("manifest", {}).get("hugging_face", {})
    return Companions(model, folder, said, options.tokenizer)


def _describe(reader: CheckpointReader, dst: Path, weights: Mapping[str, LazyTensor], beside: Companions, files: list[FileRecord]) -> None:
    """Write the manifest. An older one must not stay beside new weights, whatever happens."""
    path = manifest_path(dst)
    origin = {"name": reader.path.name, "format": reader.metadata["format"]}
    path.unlink(missing_ok=True)
    try:
        write_manifest(
            path, files, dtypes=_dtypes(weights), tensors=len(weights), source=origin, model=beside.config, hf_files=beside.hf_files
        )
    except CheckpointError as error:
        problem = f"could not be written ({error.problem.split(';')[0].rstrip('.')}); the weights beside it are whole and can be used."
        raise CheckpointError(path, problem, fix="free some space and convert again with --force.") from error


def _write(
    target: str,
    dst: Path,
    weights: Mapping[str, LazyTensor],
    beside: Companions,
    max_shard_bytes: int,
    force: bool,
    progress: bool | None,
) -> list[FileRecord]:
    total = sum(tensor_bytes(tensor) for tensor in weights.values())
    require_space(dst, total)
    with progress_bar(total, dst.name, progress) as on_bytes:
        if target == "ms":
            return [write_ckpt(dst, weights.items(), force=force, hashed=True, on_bytes=on_bytes)]
        if target == "hf":
            return write_hf(dst, weights, beside, max_shard_bytes=max_shard_bytes, force=force, on_bytes=on_bytes)
        if dst.suffix == ".safetensors":
            return [write_safetensors(dst, weights, metadata={"format": "ms"}, force=force, on_bytes=on_bytes)]
        return write_ours(dst, weights, beside, max_shard_bytes=max_shard_bytes, force=force, on_bytes=on_bytes)


@contextmanager
def progress_bar(total: int, name: str, progress: bool | None) -> Iterator[Callable[[int], object]]:
    """A bar of bytes on stderr, and what moves it; with None it is shown on a terminal only."""
    disable = None if progress is None else not progress  # None: tqdm shows it on a terminal only
    with tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=disable) as bar:
        yield bar.update
