"""`export/manifest.json`: what an export directory holds, and proof that it still does. Without MindSpore.

Of an export into `output` there are

    output/mindir_full_checkpoint/rank_N.mindir                     graph with its weights, or
    output/mindir_full_checkpoint/rank_N_graph.mindir               graph, and its weights in
    output/mindir_full_checkpoint/rank_N_variables/data_0           this file
    output/mindir_inc_checkpoint/rank_N[_graph].mindir              and the same data file by a second name (a hard link)
    output/export/reference.npz                                     what the model itself said to a prompt
    output/export/manifest.json                                     this module; of all ranks, written last

Nothing of the directory is used that the manifest does not name: MindSpore reads damaged weights without a word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mindformers_codellama
from mindformers_codellama.checkpoint.files import FileRecord, atomic_file
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.mindir.protocol import FULL, INC, ROLES, SINGLE, Signature, TensorSpec

KIND = "codellama-mindir"
LAYOUT_VERSION = 1
"""Of the graphs' inputs and of the manifest's own keys."""
MANIFEST = Path("export") / "manifest.json"
"""Below the export directory."""
FOLDERS = {FULL: "mindir_full_checkpoint", INC: "mindir_inc_checkpoint", SINGLE: "mindir_full_checkpoint"}
"""Role of a graph to its folder below the export directory, as MindFormers 1.0 names them."""
STATIC, PAGED, POOLS = "static", "paged", "pools"
STANDARD, KERNELS = "standard", "codellama-cpu"
OPERATORS = (STANDARD, KERNELS)
"""What graphs are made of: MindSpore's own operators, or those of this package's CPU kernels."""
GROUPS = {"cpu": "mccl_world_group", "ascend": "hccl_world_group"}
"""Target to the name that graphs give to the group of all ranks."""
REMAKE = "export again: codellama export."


@dataclass(frozen=True, kw_only=True)
class KVCache:
    """Where keys and values live: Parameters in the graph, named `key_past.N...` and `value_past.N...`, one pair per layer or for all."""

    layout: str
    """`static`: `(B, K, S, H)`, a row of positions for each row. `paged`: `(blocks, block size, K, H)`, rows take blocks.
    `pools`: the CPU kernels' own, all layers in one pair."""
    dtype: str
    block_size: int = 0
    """Positions of a block; 0 when static."""
    blocks: int = 0
    """Blocks in all, block 0 not used for rows; 0 when static."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One graph of one rank."""

    role: str
    """`full`, `inc` or `single`."""
    rank: int
    file: str
    """Its `.mindir`, relative to the export directory."""
    data: tuple[str, ...]
    """Files with its weights, relative likewise; empty when they are in the `.mindir`."""
    signature: Signature

    @property
    def files(self) -> tuple[str, ...]:
        """All that it needs."""
        return (self.file, *self.data)


@dataclass(frozen=True, kw_only=True)
class ExportManifest:
    """The contents of a manifest."""

    model_id: str
    """sha256 over configuration and weights: graphs of one export share it."""
    model: ModelConfig
    """Of the whole model; `seq_length` is the number of positions exported."""
    weight_form: str
    """Type the weights are held in: float32, float16, bfloat16, int8 or int4."""
    batch_size: int
    """B, rows of a call."""
    dynamic: bool
    """`input_ids` of prompts may have any length up to `seq_length`."""
    kv: KVCache
    target: str
    """`cpu` or `ascend`: whose communication group the graphs name."""
    world_size: int
    """Ranks that run together, each its own graphs."""
    group: str
    """Communication group named in the graphs; empty on one rank."""
    graphs: tuple[Graph, ...]
    files: tuple[FileRecord, ...]
    """Every file of every graph, and the reference, with size and sha256."""
    reference: str = ""
    """File with tokens and logits of the model itself, relative likewise; empty when the graphs were never compared with it."""
    encryption: str
    """`AES-GCM` when files are encrypted; empty when not."""
    tokenizer: Mapping[str, str]
    """`path` as given to export and `sha256` of its model file; empty when unknown."""
    stop_token_ids: tuple[int, ...]
    """Ids that end an answer."""
    versions: Mapping[str, str]
    """`mindspore` and `mindformers_codellama` that wrote the graphs."""
    operators: str = STANDARD
    """One of `OPERATORS`."""
    kernel_version: int = 0
    """Of the kernel library's entry points (`kernels.build.VERSION`); 0 with standard operators."""
    entry_points: tuple[str, ...] = ()
    """Of the kernel library that the graphs call."""
    verification: Mapping[str, Any]
    """`verified` True with the numbers found, or False with the `reason`."""

    @property
    def single(self) -> bool:
        """Whether one graph does both roles."""
        return all(graph.role == SINGLE for graph in self.graphs)

    @property
    def verified(self) -> bool:
        """Whether the graphs were run and compared with the model after they were written."""
        return self.verification.get("verified") is True

    def graph(self, rank: int, role: str) -> Graph:
        """The graph of a rank for a role; a single graph serves both.

        Raises:
            CheckpointError: there is none.
        """
        for graph in self.graphs:
            if graph.rank == rank and graph.role in (role, SINGLE):
                return graph
        ranks = sorted({graph.rank for graph in self.graphs})
        problem = f"has no {role} graph of rank {rank}; it has ranks {', '.join(map(str, ranks))}."
        raise CheckpointError(MANIFEST, problem, fix="start as many ranks as were exported.")

    def record(self, name: str) -> FileRecord:
        """Size and sha256 of a file the manifest names."""
        return next(file for file in self.files if file.name == name)

    def rank_files(self, rank: int) -> tuple[str, ...]:
        """What one rank reads, each once."""
        return tuple(dict.fromkeys(name for graph in self.graphs if graph.rank == rank for name in graph.files))


def graph_files(role: str, rank: int) -> tuple[str, str]:
    """Names below the export directory: the graph with its weights inside, and the graph beside its weights."""
    return f"{FOLDERS[role]}/rank_{rank}.mindir", f"{FOLDERS[role]}/rank_{rank}_graph.mindir"


def write_export_manifest(folder: Path, manifest: ExportManifest) -> Path:
    """Write it below an export directory, replacing an older one; it appears whole or not at all.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    values = {
        "kind": KIND,
        "layout_version": LAYOUT_VERSION,
        "written_by": f"mindformers_codellama {mindformers_codellama.__version__}",
        **asdict(manifest),
    }
    values["manifest_sha256"] = _digest(values)
    path = folder / MANIFEST
    with atomic_file(path, force=True) as file:
        file.write(json.dumps(values, indent=1).encode() + b"\n")
    return path


def read_export_manifest(folder: Path) -> ExportManifest:
    """The manifest of an export directory, checked in itself; `files.verify_files` looks at what it names.

    Raises:
        CheckpointError: missing, damaged, edited, or of another version.
    """
    path = folder / MANIFEST
    values = _read(path)
    if values.get("layout_version") != LAYOUT_VERSION:
        problem = f"is of layout version {values.get('layout_version')!r}; this package reads {LAYOUT_VERSION}."
        raise CheckpointError(
            path, problem, fix=f"{REMAKE[:-1]}, or use the version that wrote it ({values.get('written_by', 'unknown')})."
        )
    if values.get("manifest_sha256") != _digest(values):
        raise CheckpointError(path, "was changed after export wrote it: its own checksum does not fit.", fix=REMAKE)
    try:
        manifest = _manifest(values)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(path, f"is damaged ({type(error).__name__}: {error}).", fix=REMAKE) from error
    _check(path, manifest)
    return manifest


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(path, "is missing; without it nothing says what the graphs are.", fix=REMAKE) from error
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, "is damaged: it is not JSON.", fix=REMAKE) from error
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise CheckpointError(path, "does not describe exported graphs of this package.", fix=REMAKE)
    return values


def _digest(values: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in values.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _spec(values: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(None if size is None else int(size) for size in values["shape"])
    return TensorSpec(name=str(values["name"]), dtype=str(values["dtype"]), shape=shape)


def _graph(values: Mapping[str, Any]) -> Graph:
    inputs, outputs = (tuple(_spec(spec) for spec in values["signature"][key]) for key in ("inputs", "outputs"))
    return Graph(
        role=str(values["role"]),
        rank=int(values["rank"]),
        file=str(values["file"]),
        data=tuple(map(str, values["data"])),
        signature=Signature(inputs=inputs, outputs=outputs),
    )


def _manifest(values: Mapping[str, Any]) -> ExportManifest:
    return ExportManifest(
        model_id=str(values["model_id"]),
        model=ModelConfig(**values["model"]),
        weight_form=str(values["weight_form"]),
        batch_size=int(values["batch_size"]),
        dynamic=bool(values["dynamic"]),
        kv=KVCache(**values["kv"]),
        target=str(values["target"]),
        world_size=int(values["world_size"]),
        group=str(values["group"]),
        graphs=tuple(map(_graph, values["graphs"])),
        files=tuple(FileRecord(str(file["name"]), int(file["size"]), str(file["sha256"])) for file in values["files"]),
        encryption=str(values["encryption"]),
        tokenizer=dict(values["tokenizer"]),
        stop_token_ids=tuple(map(int, values["stop_token_ids"])),
        versions=dict(values["versions"]),
        operators=str(values.get("operators", STANDARD)),
        kernel_version=int(values.get("kernel_version", 0)),
        entry_points=tuple(map(str, values.get("entry_points", ()))),
        verification=dict(values["verification"]),
        reference=str(values["reference"]),
    )


def _check(path: Path, manifest: ExportManifest) -> None:
    """What is wrong in a manifest that can be read: also one that was never written by export."""
    named = {name for graph in manifest.graphs for name in graph.files} | ({manifest.reference} - {""})
    ranks = {graph.rank for graph in manifest.graphs}
    roles = [graph.role for graph in manifest.graphs]
    problems = [
        (
            not manifest.graphs or ranks != set(range(manifest.world_size)),
            f"names graphs of ranks {sorted(ranks)} of {manifest.world_size}",
        ),
        (any(role not in ROLES for role in roles) or (SINGLE in roles and not manifest.single), f"has graphs {', '.join(roles)}"),
        (named != {file.name for file in manifest.files}, "does not have size and sha256 of just the files it names"),
        (any(Path(name).is_absolute() or ".." in Path(name).parts for name in named), "names files outside its directory"),
        (manifest.operators not in OPERATORS, f"has operators {manifest.operators!r}"),
        (manifest.kv.layout not in (STATIC, PAGED, POOLS), f"has a cache of layout {manifest.kv.layout!r}"),
        (manifest.target not in GROUPS, f"has the target {manifest.target!r}"),
    ]
    for wrong, text in problems:
        if wrong:
            raise CheckpointError(path, f"{text}.", fix=REMAKE)
