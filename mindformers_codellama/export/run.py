"""An export from end to end, on one rank or on all ranks of a job; and the comparison of an older one."""

from __future__ import annotations

import dataclasses
import gc
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from mindformers_codellama.backends.fused_decoder import FusedDecoder
from mindformers_codellama.backends.mindspore_decoder import MindSporeDecoder
from mindformers_codellama.backends.packed_model import PackedModel
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.export.integers import Integers
from mindformers_codellama.export.kernel_graphs import KernelGraphs, stacked
from mindformers_codellama.export.reference import REFERENCE, Reference, compare, prompts, read_reference, run_reference, write_reference
from mindformers_codellama.export.request import ExportRequest, ExportSizes
from mindformers_codellama.export.retarget import retarget
from mindformers_codellama.export.stage import STAGE, staged
from mindformers_codellama.export.standard_graphs import StandardGraphs
from mindformers_codellama.export.write import (
    Graphs,
    Progress,
    RankOutput,
    build_manifest,
    check_place,
    move_out,
    refuse_existing_export,
    remove_old,
    write_rank,
)
from mindformers_codellama.mindir.decoder import MindIRDecoder
from mindformers_codellama.mindir.files import verify_files
from mindformers_codellama.mindir.graph_engine import GraphEngine
from mindformers_codellama.mindir.manifest import GROUPS, KERNELS, MANIFEST, ExportManifest, read_export_manifest, write_export_manifest
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.parallel.agreement import gather, together
from mindformers_codellama.parallel.comm import Comm

logger = logging.getLogger(__name__)

BUILDING, WRITING, VERIFYING, MOVING = "asking the model", "writing the graphs", "comparing the graphs with the model", "naming the files"
NOT_VERIFIED = "the comparison was switched off"


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was done."""

    folder: str
    files: dict[str, int]
    """Name below the folder to bytes; a second name of the same weights has 0."""
    seconds: float
    verification: dict[str, Any]


Build = Callable[[], LlamaNetwork | PackedModel]


def export_network(
    build: Build,
    request: ExportRequest,
    *,
    sizes: ExportSizes,
    comm: Comm,
    context: ContextSection,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the graphs of a model, compare them with it, and give them their names. Every rank calls it.

    Args:
        build: makes the network with its weights, cut as `comm` says and with plain operators, or for graphs of the kernels packed
            weights; it is let go before graphs are loaded.
        request: what to write.
        sizes: of one rank.
        comm: this process among the ranks.
        context: section `context`, for the comparison.
        progress: told the bytes written, then the bytes read again.

    Raises:
        CheckpointError: names that are taken, a full disk, or graphs that are not the model.
    """
    started = time.perf_counter()
    others = None if comm.is_alone else comm
    folder = request.folder
    together(others, lambda: check_place(folder, sizes, force=request.force), doing=BUILDING)
    refuse_taken = partial(refuse_existing_export, folder, force=request.force)  # what an export that was just finished has left
    with staged(folder, comm, check=refuse_taken):
        return _export(build, request, comm, context, progress, started)


def _export(
    build: Build,
    request: ExportRequest,
    comm: Comm,
    context: ContextSection,
    progress: Progress | None,
    started: float,
) -> ExportReport:
    """Everything between the checks and the final names."""
    others, first, stage = None if comm.is_alone else comm, comm.rank == 0, request.folder / STAGE
    config, reference, output = _ask_and_write(build, request, comm, progress)
    gc.collect()
    record = together(others, lambda: write_reference(stage / REFERENCE, reference) if reference and first else None, doing=WRITING)
    outputs = gather(others, output, doing=WRITING)
    record = gather(others, record, doing=WRITING)[0]
    found: dict[str, Any] = {"verified": False, "reason": NOT_VERIFIED}
    manifest = build_manifest(config, request, outputs, found, record)
    if reference is not None:
        _write_seen(stage, manifest, comm)
        found = _verify(stage, manifest, comm, context, reference, progress, request.key_file)
    manifest = dataclasses.replace(manifest, verification=found)
    return _name_files(request, stage, manifest, comm, started)


def _ask_and_write(
    build: Build, request: ExportRequest, comm: Comm, progress: Progress | None
) -> tuple[ModelConfig, Reference | None, RankOutput]:
    """All that needs the model, which ends with this function."""
    held, reference = _ask(build(), request)
    others = None if comm.is_alone else comm
    write = partial(write_rank, held, request, request.folder / STAGE, comm.rank, progress=progress)
    output = together(others, write, doing=WRITING)
    let_go(held.parameters().values())
    return held.config, reference, output


def _ask(model: LlamaNetwork | PackedModel, request: ExportRequest) -> tuple[Graphs, Reference | None]:
    """What the model says, and then its graphs, which take the model's place."""
    integers = Integers(model, request.form) if isinstance(model, LlamaNetwork) and request.form else None
    reference = None
    if request.verify:
        ids_BT, lengths_B = prompts(model.config, request.batch_size, list(request.prompt_ids))
        decoder = MindSporeDecoder(model) if isinstance(model, LlamaNetwork) else FusedDecoder(model)
        reference = run_reference(decoder, ids_BT, lengths_B)
    if isinstance(model, PackedModel):
        return KernelGraphs(model, request), reference
    if request.operators == KERNELS:
        weights = stacked(model)
        let_go(model.get_parameters())
        return KernelGraphs(weights, request), reference
    if integers is not None:
        integers.put_in()
    return StandardGraphs(model, request), reference


def let_go(parameters: Iterable[ms.Parameter]) -> None:
    """Free the memory of weights: MindSpore remembers them in what it compiled. Nothing can be computed with them afterwards."""
    for parameter in parameters:
        parameter.set_data(ms.Tensor(np.zeros(1, np.float32)).astype(parameter.dtype), slice_shape=True)


def _write_seen(folder: Path, manifest: ExportManifest, comm: Comm) -> None:
    """Write the manifest once on every disk: rank 0 first, then whoever does not see it."""
    others = None if comm.is_alone else comm
    together(others, lambda: write_export_manifest(folder, manifest) if comm.rank == 0 else None, doing=WRITING)
    together(others, lambda: None if (folder / MANIFEST).is_file() else write_export_manifest(folder, manifest), doing=WRITING)


def _verify(  # noqa: PLR0913 - all of them differ from call to call
    folder: Path,
    manifest: ExportManifest,
    comm: Comm,
    context: ContextSection,
    reference: Reference,
    progress: Progress | None,
    key_file: Path | None,
) -> dict[str, Any]:
    """Load the graphs of this rank from files and compare; the worst of all ranks."""
    others = None if comm.is_alone else comm
    # the files as MindSpore itself reads them
    engine = GraphEngine(folder, rank=comm.rank, context=context, key_file=key_file, progress=progress, maps=False)
    together(others, engine.load, doing=VERIFYING)
    where = folder / manifest.graph(comm.rank, "full").file
    found = together(others, lambda: compare(MindIRDecoder(engine), reference, manifest.model, where=where), doing=VERIFYING)
    logger.info("logits differ by at most %.3g, allowed is %.3g", found["max_logit_error"], found["bound"])
    worst = max(gather(others, found["max_logit_error"], doing=VERIFYING))
    return {"verified": True, **found, "max_logit_error": worst, "tokens": reference.tokens.T.tolist()}


def _name_files(request: ExportRequest, stage: Path, manifest: ExportManifest, comm: Comm, started: float) -> ExportReport:
    others = None if comm.is_alone else comm
    folder, first = request.folder, comm.rank == 0
    records = together(others, lambda: retarget(stage, manifest, comm.rank, request.target), doing=MOVING)
    changed = {record.name: record for rank_records in gather(others, records, doing=MOVING) for record in rank_records}
    manifest = dataclasses.replace(
        manifest,
        files=tuple(changed.get(record.name, record) for record in manifest.files),
        group=GROUPS[request.target] if manifest.group else "",
        target=request.target,
    )
    together(others, lambda: remove_old(folder), doing=MOVING)
    own = [*manifest.rank_files(comm.rank), *([manifest.reference] if first and manifest.reference else [])]
    together(others, lambda: move_out(stage, folder, own), doing=MOVING)
    _write_seen(folder, manifest, comm)
    seen: set[str] = set()
    files: dict[str, int] = {}
    for record in manifest.files:
        files[record.name] = 0 if record.name.endswith("data_0") and record.sha256 in seen else record.size
        seen.add(record.sha256)
    return ExportReport(folder=str(folder), files=files, seconds=time.perf_counter() - started, verification=dict(manifest.verification))


def verify_again(
    folder: Path, *, comm: Comm, context: ContextSection, key_file: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Compare what an export directory holds with what the model said when it was exported. Every rank calls it.

    Raises:
        CheckpointError: files that are not those of the manifest, or graphs that answer otherwise; an export that was
            never compared with its model.
    """
    manifest = read_export_manifest(folder)
    if not manifest.reference:
        problem = "says that the graphs were not compared with the model, so there is nothing to compare them with now."
        raise CheckpointError(folder / MANIFEST, problem, fix="export again without --no-verify.")
    verify_files(folder, manifest, [manifest.reference])
    return _verify(folder, manifest, comm, context, read_reference(folder / manifest.reference), progress, key_file)
