"""`manifest.json` beside the files we write: what they are, their sizes and hashes, where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mindformers_codellama
from mindformers_codellama.checkpoint.files import FileRecord, atomic_file
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError

SCHEMA_VERSION = 1


def manifest_path(checkpoint: Path) -> Path:
    """`DIR/manifest.json` for a directory, `FILE.manifest.json` for a file."""
    return checkpoint / "manifest.json" if checkpoint.is_dir() else checkpoint.with_name(checkpoint.name + ".manifest.json")


def write_manifest(
    path: Path,
    files: Sequence[FileRecord],
    *,
    dtypes: Sequence[str],
    tensors: int,
    source: Mapping[str, Any],
    model: ModelConfig | None,
    hf_files: Mapping[str, str] | None = None,
    sharding: Mapping[str, Any] | None = None,
) -> None:
    """Write a manifest, replacing an older one.

    Args:
        path: from `manifest_path`.
        files: what was written, with hashes.
        dtypes: element types of the weights.
        tensors: their number.
        source: format and name of what was converted.
        model: configuration, when known; makes `codellama convert --to hf` possible without `--config`.
        hf_files: text of the source's config.json and generation_config.json, so that the way back gives the same files.
        sharding: of shards: their layout, what they were made from, whether all are written.
    """
    values = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"mindformers_codellama {mindformers_codellama.__version__}",
        "files": [asdict(file) for file in files],
        "tensors": tensors,
        "dtypes": list(dtypes),
        "source": dict(source),
        "model": asdict(model) if model is not None else None,
        "hugging_face": dict(hf_files or {}),
    }
    if sharding is not None:
        values["sharding"] = dict(sharding)
    with atomic_file(path, force=True) as file:
        file.write(json.dumps(values, indent=2).encode() + b"\n")


def read_manifest(checkpoint: Path) -> tuple[ModelConfig | None, dict[str, Any]]:
    """Configuration and contents of the manifest beside a checkpoint; `(None, {})` when there is none.

    Raises:
        CheckpointError: a damaged manifest, or files whose size is not the recorded one.
    """
    path = manifest_path(checkpoint)
    if not path.is_file():
        return None, {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        model = ModelConfig(**values["model"]) if values.get("model") else None
        sizes = {str(entry["name"]): int(entry["size"]) for entry in values["files"]}
        for text in dict(values.get("hugging_face") or {}).values():
            json.loads(text)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f"is damaged ({error}).", fix="delete it; it is not needed to read the weights.") from error
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for name, size in sizes.items():
        file = folder / name
        if file.is_file() and file.stat().st_size != size:
            fix = f"copy it again; if it was changed on purpose, delete {path.name}."
            raise CheckpointError(file, f"has {file.stat().st_size} bytes, its manifest says {size}.", fix=fix)
    return model, values
