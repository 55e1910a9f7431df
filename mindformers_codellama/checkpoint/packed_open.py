"""Open a directory of packed weights: everything is checked, then the file is mapped and nothing is copied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindformers_codellama.checkpoint.dtypes import dtype_name
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.packed_file import file_record, map_file
from mindformers_codellama.checkpoint.packed_layout import packed_model, slots
from mindformers_codellama.checkpoint.packed_manifest import (
    KIND,
    LAYOUT_VERSION,
    PACKED_FILE,
    PackedManifest,
    packed_folder,
    read_packed_manifest,
)
from mindformers_codellama.checkpoint.packed_model import PackedModel
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError, raise_all

REMAKE = "make it again with `codellama quantize`."


@dataclass(frozen=True)
class PackedCheckpoint:
    """An opened directory."""

    path: Path
    manifest: PackedManifest
    arrays: dict[str, np.ndarray]
    """Views of the mapped file by the names of `PackedModel`."""

    def model(self, config: ModelConfig | None = None) -> PackedModel:
        """The weights for the network kernel; `config` may differ from the manifest's in what decides no shape."""
        return packed_model(config or self.manifest.model, self.manifest.form, self.manifest.group, self.arrays)


def open_packed(path: str | Path, *, verify: bool = False) -> PackedCheckpoint:
    """Open packed weights.

    Args:
        path: the directory, or its weight file.
        verify: read the whole file and compare its checksum; sizes and shapes are always compared.

    Raises:
        CheckpointError: no such directory; a manifest or file that is missing, damaged, cut short or of another model,
            version, form or group size; with `verify` another checksum.
    """
    folder = packed_folder(path)
    if folder is None:
        fix = "give a directory of `codellama quantize`."
        raise CheckpointError(path, f"holds no packed weights ({PACKED_FILE}).", fix=fix)
    manifest = read_packed_manifest(folder)
    file = folder / PACKED_FILE
    if verify:
        verify_packed(folder, manifest)
    arrays, metadata = map_file(file)
    _check_metadata(file, metadata, manifest)
    _check_arrays(file, arrays, manifest)
    return PackedCheckpoint(folder, manifest, arrays)


def verify_packed(folder: Path, manifest: PackedManifest) -> None:
    """Compare the checksum of every file.

    Raises:
        CheckpointError: a file that is not the one that was written.
    """
    raise_all(
        CheckpointError(folder / file.name, "is damaged: its checksum is not the manifest's.", fix=f"copy it again, or {REMAKE}")
        for file in manifest.files
        if file_record(folder / file.name).sha256 != file.sha256
    )


def packed_metadata(form: str, group: int, source_sha256: str) -> dict[str, str]:
    """Metadata of a weight file, so that it cannot be taken for one of another manifest."""
    return {"format": KIND, "layout_version": str(LAYOUT_VERSION), "form": form, "group_size": str(group), "source": source_sha256}


def checkpoint_config(path: str | Path) -> ModelConfig | None:
    """The configuration a checkpoint says it has, packed or not; None when it says none.

    Raises:
        CheckpointError: as `open_packed`'s manifest, or as `open_checkpoint`.
    """
    folder = packed_folder(path)
    return open_checkpoint(path).config if folder is None else read_packed_manifest(folder).model


def _check_metadata(file: Path, found: dict[str, str], manifest: PackedManifest) -> None:
    wanted = packed_metadata(manifest.form, manifest.group, str(manifest.source.get("sha256", "")))
    differing = [f"{key} {found.get(key)!r}, there {value!r}" for key, value in wanted.items() if found.get(key) != value]
    if differing:
        problem = f"does not belong to the manifest beside it: {'; '.join(differing)}."
        raise CheckpointError(file, problem, fix=f"copy both files of one directory, or {REMAKE}")


def _check_arrays(file: Path, arrays: dict[str, np.ndarray], manifest: PackedManifest) -> None:
    """Every array there, of its shape and type, and nothing else."""
    needed = slots(manifest.model, manifest.form, manifest.group)
    problems = [f"{name} is missing" for name in needed if name not in arrays]
    problems += [f"{name} is not known" for name in arrays if name not in needed]
    for name, slot in needed.items():
        if name in arrays and (arrays[name].shape, dtype_name(arrays[name].dtype)) != (slot.shape, slot.dtype):
            got = f"{dtype_name(arrays[name].dtype)} {list(arrays[name].shape)}"
            problems.append(f"{name} is {got}, the model needs {slot.dtype} {list(slot.shape)}")
    raise_all(CheckpointError(file, f"is not of this model: {problem}.", fix=REMAKE) for problem in problems)
