"""Exporting a network: graphs, weights once, comparison with the model, and only then the names a person sees.

Everything is written to a folder `.export.tmp` inside the export directory. What is there is verified, and then moved;
the manifest goes last and, when older graphs are replaced, leaves first, so that it never describes other files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

import mindformers_codellama
from mindformers_codellama.checkpoint.files import FileRecord, Output, require_space, sync_directory, write_problem
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.export.graphs import placeholders
from mindformers_codellama.export.kernel_graphs import KernelGraphs
from mindformers_codellama.export.proto import DataFile, graph_proto, groups, point_at, write_encrypted, write_graph
from mindformers_codellama.export.request import ExportRequest, ExportSizes
from mindformers_codellama.export.stage import STAGE
from mindformers_codellama.export.standard_graphs import StandardGraphs
from mindformers_codellama.kernels.build import VERSION
from mindformers_codellama.kernels.mindir import ROWS
from mindformers_codellama.mindir.key import MODE, read_key
from mindformers_codellama.mindir.manifest import (
    FOLDERS,
    KERNELS,
    MANIFEST,
    PAGED,
    POOLS,
    STATIC,
    ExportManifest,
    Graph,
    KVCache,
    graph_files,
)
from mindformers_codellama.mindir.mapped import parameter_name

logger = logging.getLogger(__name__)

Progress = Callable[[int], object]
Graphs = StandardGraphs | KernelGraphs


@dataclass(frozen=True)
class RankOutput:
    """What one rank has written."""

    graphs: tuple[Graph, ...]
    files: tuple[FileRecord, ...]
    group: str


def refuse_existing_export(folder: Path, *, force: bool) -> None:
    """Refuse to write over graphs or a manifest.

    Raises:
        CheckpointError: with the first name that is taken.
    """
    taken = [name for name in (*dict.fromkeys(FOLDERS.values()), str(MANIFEST)) if (folder / name).exists()]
    if taken and not force:
        raise CheckpointError(folder / taken[0], "exists already.", fix="give another --output (output_dir), or --force to replace it.")


def write_rank(held: Graphs, request: ExportRequest, stage: Path, rank: int, *, progress: Progress | None = None) -> RankOutput:
    """Write graphs and weights of one rank.

    Args:
        held: graphs of the whole model, or of this rank's part.
        request: what to write.
        stage: folder that takes the place of the export directory.
        rank: in names of files.
        progress: told the bytes of every piece written.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    if request.key_file is not None:
        return _write_encrypted(held, request, stage, rank)
    protos: dict[str, Any] = {}
    graphs: list[Graph] = []
    for role in request.roles:
        logger.info("rank %d: building the %s graph", rank, role)
        spec, cell = held.graph(role)
        protos[role] = graph_proto(cell, placeholders(spec))
        data = f"{FOLDERS[role]}/rank_{rank}_variables/data_0"
        graphs.append(Graph(role=role, rank=rank, file=graph_files(role, rank)[1], data=(data,), signature=spec))
    try:
        files = _write_files(stage, graphs, protos, held.parameters(), progress)
    except OSError as error:
        raise write_problem(stage.parent, error) from error
    named = set().union(*(groups(proto) for proto in protos.values()))
    assert len(named) <= 1, f"graphs name the groups {named}"
    return RankOutput(tuple(graphs), files, next(iter(named), ""))


def _write_encrypted(held: Graphs, request: ExportRequest, stage: Path, rank: int) -> RankOutput:
    """Every graph in one encrypted file with weights of its own."""
    assert request.key_file is not None
    key = read_key(request.key_file)
    graphs, records = [], []
    for role in request.roles:
        logger.info("rank %d: building and encrypting the %s graph", rank, role)
        spec, cell = held.graph(role)
        file = graph_files(role, rank)[0]
        try:
            record = write_encrypted(stage / file, cell, placeholders(spec), key)
        except OSError as error:
            raise write_problem(stage.parent, error) from error
        records.append(dataclasses.replace(record, name=file))
        graphs.append(Graph(role=role, rank=rank, file=file, data=(), signature=spec))
    return RankOutput(tuple(graphs), tuple(records), held.group)


def _write_files(
    stage: Path, graphs: Iterable[Graph], protos: dict[str, Any], parameters: dict[str, ms.Parameter], progress: Progress | None
) -> tuple[FileRecord, ...]:
    records: list[FileRecord] = []
    first: tuple[Path, FileRecord] | None = None
    places: dict[str, Any] = {}
    for graph in graphs:
        data = stage / graph.data[0]
        data.parent.mkdir(parents=True, exist_ok=True)
        if first is None:
            used = {parameter_name(one.name) for proto in protos.values() for one in proto.graph.parameter}
            missing = used - set(parameters)
            assert not missing, f"the graph has parameters that nobody holds: {missing}"
            first, places = _write_data(data, {name: parameters[name] for name in sorted(used)}, graph.data[0], progress)
        else:
            link_or_copy(first[0], data)
        records.append(dataclasses.replace(first[1], name=graph.data[0]))
        proto = protos[graph.role]
        point_at(proto, os.path.relpath(graph.data[0], Path(graph.file).parent), places)
        records.append(dataclasses.replace(write_graph(stage / graph.file, proto), name=graph.file))
    return tuple(records)


def _write_data(
    path: Path, parameters: dict[str, ms.Parameter], name: str, progress: Progress | None
) -> tuple[tuple[Path, FileRecord], dict[str, Any]]:
    caches = {key: int(one.nbytes) for key, one in parameters.items() if not one.requires_grad and "_past." in key}
    with path.open("wb") as file:
        output = Output(file, hashed=True)
        data = DataFile(output)
        for key, one in parameters.items():
            if key not in caches:
                before = output.size
                data.add(key, one)
                if progress is not None:
                    progress(output.size - before)
        data.add_zeros(caches)
        file.flush()
        os.fsync(file.fileno())
    return (path, output.record(name)), data.places


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name: MindSpore 2.10 reads data files only below a graph's own folder, and follows no way out of it."""
    try:
        os.link(source, target)
    except OSError as error:
        logger.warning("%s: this disk has no hard links (%s), so the weights are there twice.", target, error.strerror)
        shutil.copyfile(source, target)


def build_manifest(
    config: ModelConfig, request: ExportRequest, outputs: list[RankOutput], verification: dict[str, Any], reference: FileRecord | None
) -> ExportManifest:
    """The manifest of all ranks.

    Args:
        config: of the model.
        request: what was asked for.
        outputs: of every rank, by rank.
        verification: what the comparison found, or why there was none.
        reference: file with the model's own logits.
    """
    files = tuple(record for output in outputs for record in output.files) + ((reference,) if reference else ())
    # weights of plain exports are known by their own files, and encrypted graphs hold them
    weights = sorted(record.sha256 for output in outputs for record in output.files if request.key_file or record.name.endswith("data_0"))
    model_id = hashlib.sha256(json.dumps([asdict(config), weights], sort_keys=True).encode()).hexdigest()
    return ExportManifest(
        model_id=model_id,
        model=config,
        weight_form=request.form or config.param_init_dtype,
        batch_size=request.batch_size,
        dynamic=request.dynamic,
        kv=kv_cache(config, request),
        target=request.target,
        world_size=len(outputs),
        group=outputs[0].group,
        graphs=tuple(graph for output in outputs for graph in output.graphs),
        files=files,
        encryption=MODE if request.key_file is not None else "",
        tokenizer=dict(request.tokenizer),
        stop_token_ids=request.stop_token_ids,
        versions={"mindspore": ms.__version__, "mindformers_codellama": mindformers_codellama.__version__, "numpy": np.__version__},
        operators=request.operators,
        kernel_version=VERSION if request.operators == KERNELS else 0,
        entry_points=(ROWS,) if request.operators == KERNELS else (),
        verification=verification,
        reference=reference.name if reference else "",
    )


def kv_cache(config: ModelConfig, request: ExportRequest) -> KVCache:
    """For the manifest."""
    if request.operators == KERNELS:
        return KVCache(layout=POOLS, dtype="bfloat16" if request.form else "float32")
    if request.blocks:
        return KVCache(layout=PAGED, dtype=config.compute_dtype, block_size=request.block_size, blocks=request.blocks)
    return KVCache(layout=STATIC, dtype=config.compute_dtype)


def check_place(folder: Path, sizes: ExportSizes, *, force: bool) -> None:
    """Refuse names that are taken and disks that are too small, before anything is built.

    Raises:
        CheckpointError: so it is.
    """
    refuse_existing_export(folder, force=force)
    require_space(folder / STAGE, sizes.disk)


def remove_old(folder: Path) -> None:
    """Take away an older export: its manifest first."""
    with suppress(FileNotFoundError):
        (folder / MANIFEST).unlink()
    for name in (*dict.fromkeys(FOLDERS.values()), str(MANIFEST.parent)):
        shutil.rmtree(folder / name, ignore_errors=True)


def move_out(stage: Path, folder: Path, names: Iterable[str]) -> None:
    """Give files their final names.

    Raises:
        CheckpointError: the disk refuses.
    """
    try:
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / name, target)
            sync_directory(target.parent)
    except OSError as error:
        raise write_problem(folder, error) from error
