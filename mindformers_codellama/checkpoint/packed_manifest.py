"""`manifest.json` of a directory with packed weights: what was packed, how, from what, and how far it is from the original."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mindformers_codellama
from mindformers_codellama.checkpoint.files import FileRecord, atomic_file
from mindformers_codellama.checkpoint.packed_model import SCALED_FORMS
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.quantization.formats import GROUPS

PACKED_FILE = "model.packed.safetensors"
MANIFEST_FILE = "manifest.json"
KIND = "codellama-packed"
"""`kind` in the manifest, and `format` in the metadata of the weight file."""
LAYOUT_VERSION = 1
"""Of the bytes of packed matrices; raise it when `quantization.packing` or `packed_model` changes them."""
SCHEMES = {"bf16": "bfloat16", "w8": "int8", "w4": "int4"}
"""What `--scheme` takes, and the form of weights it makes."""
_REMAKE = "make it again with `codellama quantize`."


@dataclass(frozen=True, kw_only=True)
class PackedManifest:
    """The contents of a manifest."""

    form: str
    """`bfloat16`, `int8` or `int4`."""
    group: int
    """Columns that share a scale; 0 for bfloat16."""
    model: ModelConfig
    files: tuple[FileRecord, ...]
    source: Mapping[str, Any]
    """Name, format and files (name, size, sha256) of the checkpoint it was made from."""
    errors: Mapping[str, Mapping[str, float]]
    """Tensor by MindFormers' name to its `worst`, `mean` and `relative` error."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """What `--evaluate` found; empty when it was not asked for."""
    written_by: str = f"mindformers_codellama {mindformers_codellama.__version__}"

    @property
    def scheme(self) -> str:
        """The word of `SCHEMES`."""
        return next(scheme for scheme, form in SCHEMES.items() if form == self.form)


def write_packed_manifest(path: Path, manifest: PackedManifest) -> None:
    """Write it, replacing an older one; the file appears whole or not at all.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    values = {
        "kind": KIND,
        "layout_version": LAYOUT_VERSION,
        "written_by": manifest.written_by,
        "scheme": manifest.scheme,
        "form": manifest.form,
        "group_size": manifest.group,
        "files": [asdict(file) for file in manifest.files],
        "source": dict(manifest.source),
        "model": asdict(manifest.model),
        "evaluation": dict(manifest.evaluation),
        "errors": {name: dict(error) for name, error in manifest.errors.items()},
    }
    with atomic_file(path, force=True) as file:
        file.write(json.dumps(values, indent=1).encode() + b"\n")


def read_packed_manifest(folder: Path) -> PackedManifest:
    """The checked manifest of a directory; the files it names are there and have their sizes.

    Raises:
        CheckpointError: missing, damaged, of another version or group size, files missing or of another size.
    """
    path = folder / MANIFEST_FILE
    values = _read(path)
    if values.get("layout_version") != LAYOUT_VERSION:
        problem = f"has weights of layout version {values.get('layout_version')!r}; this package reads {LAYOUT_VERSION}."
        raise CheckpointError(
            path, problem, fix=f"{_REMAKE[:-1]}, or use the version that wrote it ({values.get('written_by', 'unknown')})."
        )
    try:
        manifest = PackedManifest(
            form=str(values["form"]),
            group=int(values["group_size"]),
            model=ModelConfig(**values["model"]),
            files=tuple(FileRecord(str(file["name"]), int(file["size"]), str(file["sha256"])) for file in values["files"]),
            source=dict(values["source"]),
            errors={str(name): dict(error) for name, error in dict(values["errors"]).items()},
            evaluation=dict(values["evaluation"]),
            written_by=str(values["written_by"]),
        )
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(path, f"is damaged ({type(error).__name__}: {error}).", fix=_REMAKE) from error
    _check_form(path, manifest)
    _check_files(folder, manifest)
    return manifest


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(path, f"is missing; it describes the weights in {PACKED_FILE}.", fix=_REMAKE) from error
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, "is damaged: it is not JSON.", fix=_REMAKE) from error
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise CheckpointError(path, "does not describe packed weights of this package.", fix=_REMAKE)
    return values


def _check_form(path: Path, manifest: PackedManifest) -> None:
    if manifest.form not in SCHEMES.values():
        allowed = ", ".join(SCHEMES.values())
        raise CheckpointError(path, f"says the weights are {manifest.form!r}; known are {allowed}.", fix=_REMAKE)
    allowed_groups = GROUPS if manifest.form in SCALED_FORMS else (0,)
    if manifest.group not in allowed_groups:
        wanted = " and ".join(map(str, allowed_groups))
        problem = f"says that {manifest.group} columns share a scale; the kernels of {manifest.form} know {wanted}."
        fix = "make it again from the floating-point checkpoint: codellama quantize SOURCE OUTPUT --group-size 64."
        raise CheckpointError(path, problem, fix=fix)


def _check_files(folder: Path, manifest: PackedManifest) -> None:
    if [file.name for file in manifest.files] != [PACKED_FILE]:
        raise CheckpointError(folder / MANIFEST_FILE, f"does not name {PACKED_FILE} alone.", fix=_REMAKE)
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            raise CheckpointError(path, "is missing, but the manifest names it.", fix=f"copy it again, or {_REMAKE}")
        size = path.stat().st_size
        if size != file.size:
            problem = f"has {size} bytes, its manifest says {file.size}: it was cut short or is another file."
            raise CheckpointError(path, problem, fix=f"copy it again, or {_REMAKE}")


def packed_folder(path: str | Path) -> Path | None:
    """The directory with packed weights that a path names (itself, or the weight file in it); None when it is something else."""
    path = Path(path).expanduser()
    if path.name == PACKED_FILE:
        return path.parent
    if not path.is_dir():
        return None
    if (path / PACKED_FILE).is_file():
        return path
    try:
        return path if json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8")).get("kind") == KIND else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def refuse_packed(path: str | Path) -> None:
    """Refuse packed weights where floating-point ones are needed: training, conversion, sharding, another packing.

    Raises:
        CheckpointError: it is a directory with packed weights; names the checkpoint it was made from.
    """
    folder = packed_folder(path)
    if folder is None:
        return
    try:
        manifest = read_packed_manifest(folder)
    except CheckpointError:
        form, origin = "packed", "the floating-point checkpoint it was made from"
    else:
        form, origin = manifest.form, f"the checkpoint it was made from ({manifest.source.get('name', 'unknown')})"
    problem = f"holds {form} weights for prediction and evaluation; their original values cannot be had back from them."
    raise CheckpointError(path, problem, fix=f"give {origin}.")
