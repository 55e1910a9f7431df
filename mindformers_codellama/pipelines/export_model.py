"""Exporting what a person names: a configuration, a directory with weights, a model name."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindformers_codellama.checkpoint.load import compare_configs
from mindformers_codellama.checkpoint.open import open_checkpoint
from mindformers_codellama.checkpoint.packed_manifest import packed_folder, read_packed_manifest
from mindformers_codellama.checkpoint.packed_model import PackedModel
from mindformers_codellama.checkpoint.start import load_weights
from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.errors import ClusterError, CodeLlamaError, ConfigError, raise_all
from mindformers_codellama.export.onnx import export_onnx, onnx_findings
from mindformers_codellama.export.request import LONG, ExportRequest, ExportSizes, export_sizes, request_findings
from mindformers_codellama.export.run import ExportReport, export_network, verify_again
from mindformers_codellama.export.write import Progress
from mindformers_codellama.kernels.choose import choose_kernels
from mindformers_codellama.kernels.mindir import ROWS, require_entries
from mindformers_codellama.layout.cuts import ModelLayout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.mindir.files import file_sha256
from mindformers_codellama.mindir.manifest import KERNELS, MANIFEST, read_export_manifest
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.parallel.agreement import together
from mindformers_codellama.parallel.comm import connect, join, require_started
from mindformers_codellama.pipelines.causal_lm import existing
from mindformers_codellama.pipelines.open_model import Source
from mindformers_codellama.pipelines.ranks import ONE, Ranks, degree_findings, join_ranks
from mindformers_codellama.pipelines.weight_form import open_fitting, packed_from
from mindformers_codellama.runtime.context import current_device, enter_context
from mindformers_codellama.runtime.dtypes import dtype_findings
from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.tokenizer import LlamaTokenizer

logger = logging.getLogger(__name__)

PROMPT = "def bubble_sort(arr):\n"
"""What graphs and model are asked when they are compared."""


def completed(source: Source, request: ExportRequest) -> ExportRequest:
    """The request with the form of packed weights, which graphs of the kernels take as they are.

    Raises:
        ConfigError: another form was asked for.
        CheckpointError: what is wrong with the directory.
    """
    folder = packed_folder(source.weights) if source.weights and request.operators == KERNELS else None
    if folder is None:
        return request
    manifest = read_packed_manifest(folder)
    if request.form not in ("", manifest.form):
        problem = f"got {request.form}, but {folder} holds {manifest.form}; packing it again would add the errors of both."
        raise ConfigError("weights", problem, fix="leave it out, or give the original checkpoint.")
    return replace(request, form=manifest.form, group=manifest.group)


def sizes_of(source: Source, request: ExportRequest) -> ExportSizes:
    """Bytes of one rank (the first, which has as much as any), without building anything."""
    layout = ModelLayout(config=source.config, layout=source.layout, vocabulary_cut=source.vocabulary_cut)
    shapes = {name: layout.box(name, 0).shape for name in layout.names(0)}  # type: ignore[union-attr]
    return export_sizes(source.config, shapes, request, source.layout.model_parallel)


def export_source(source: Source, request: ExportRequest, *, onnx: bool = False, progress: Progress | None = None) -> ExportReport:
    """Export a model. Of several ranks, all call it.

    Args:
        source: what to export.
        request: how; `completed`.
        onnx: write ONNX files instead of MindIR.
        progress: as `export_network`.

    Raises:
        ConfigError: what cannot be exported here, all reasons at once.
        CheckpointError: weights, or the export directory.
        ClusterError: this process is not the rank it should be.
    """
    raise_all(check(source, request, onnx=onnx))
    require_started(source.layout)
    enter_context(replace(source.context, mode=0))
    choose_kernels("off", device=source.context.device_target)
    if request.operators == KERNELS:
        require_entries((ROWS,), where="--operators")
    elif request.verify:
        raise_all(unverifiable(source))
    if source.config.seq_length > LONG and not request.dynamic and not onnx and request.operators != KERNELS:
        logger.warning(
            "every prompt will be computed over all %d positions, however short it is: give --seq-length or --dynamic.",
            source.config.seq_length,
        )
    words = read_tokenizer(source)
    if words is not None:
        request = replace(request, tokenizer=tokenizer_facts(words), prompt_ids=tuple(words.encode(PROMPT)))
    request = replace(request, stop_token_ids=source.generation.eos_token_ids)
    if onnx:
        report = export_onnx(lambda: build_network(source, ONE), request, sizes=sizes_of(source, request))
        return replace(report, verification=with_text(report.verification, words))
    ranks = join_ranks(source.config, source.layout, vocabulary_cut=source.vocabulary_cut, strategy=source.strategy)
    report = export_network(
        lambda: build_model(source, request, ranks),
        request,
        sizes=sizes_of(source, request),
        comm=ranks.comm,
        context=replace(source.context, mode=0),
        progress=progress,
    )
    return replace(report, verification=with_text(report.verification, words))


def check(source: Source, request: ExportRequest, *, onnx: bool = False) -> list[CodeLlamaError]:
    """What is wrong, before MindSpore is asked anything."""
    found = degree_findings(source.config, source.layout)
    if found:
        return found
    find = onnx_findings if onnx else request_findings
    found = list(find(source.config, source.layout, request, sizes_of(source, request)))
    if not source.weights:
        fix = "set load_checkpoint (or model.model_config.checkpoint_name_or_path), or give --load-checkpoint."
        found.append(ConfigError("load_checkpoint", "there are no weights to export.", fix=fix))
    elif packed_folder(source.weights) is not None and request.operators != KERNELS:
        fix = f"add --operators {KERNELS}; or give the checkpoint it was made from, and --weights int8 or int4 for the same integers."
        found.append(ConfigError(source.weights, "holds packed weights in the order of the CPU kernels.", fix=fix))
    return found


def unverifiable(source: Source) -> list[CodeLlamaError]:
    """Types this device cannot compute with, so that the graphs could not be compared with the model."""
    flag = " Or export without comparing: --no-verify; the manifest then says so."
    return [
        ConfigError(error.where, error.problem, fix=error.fix + flag)
        for error in dtype_findings(source.config, current_device(), kernels=False)
    ]


def build_model(source: Source, request: ExportRequest, ranks: Ranks) -> LlamaNetwork | PackedModel:
    """The network, or for graphs of the kernels in another form than float32 packed weights."""
    if request.operators != KERNELS or not request.form:
        return build_network(source, ranks)
    path = existing(source.weights)
    folder = packed_folder(path)
    if folder is not None:
        return open_fitting(folder, source.config, request.form).model(source.config)
    reader = open_checkpoint(path)
    compare_configs(reader, source.config)
    return packed_from(reader, source.config, request.form)


def build_network(source: Source, ranks: Ranks) -> LlamaNetwork:
    """The network of this rank with its weights, of plain operators."""
    network = LlamaNetwork(source.config, ranks.part)
    path = together(ranks.agreement, lambda: existing(source.weights), doing="loading weights")
    load_weights(network, path, comm=ranks.agreement, model_layout=ranks.model_layout, strategy=ranks.strategy)
    return network


def read_tokenizer(source: Source) -> LlamaTokenizer | None:
    """The tokenizer; None, with a warning, when there is none: graphs can do without."""
    if not source.tokenizer:
        logger.warning("no tokenizer is named: the manifest will not say which one the model needs.")
        return None
    return AutoTokenizer.from_pretrained(source.tokenizer, **source.tokenizer_options)


def tokenizer_facts(words: LlamaTokenizer) -> dict[str, str]:
    """For the manifest."""
    path = Path(words.path)
    return {"path": str(path), "sha256": file_sha256(path)}


def with_text(verification: dict[str, Any], words: LlamaTokenizer | None) -> dict[str, Any]:
    """The tokens of the comparison as text too."""
    tokens = verification.get("tokens")
    if not tokens or words is None:
        return verification
    return {**verification, "prompt": PROMPT, "text": words.decode(tokens[0])}


def verify_export(
    folder: Path, *, context: ContextSection, key_file: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Compare what an export directory holds with what its model said; its ranks are those of this job.

    Raises:
        CheckpointError, ClusterError: as `export.run.verify_again`.
    """
    manifest = read_export_manifest(folder)
    layout = Layout(model_parallel=manifest.world_size)
    context = replace(context, mode=0)
    enter_context(context)
    where, problem = folder / MANIFEST, f"is of {layout.ranks} ranks that run together"
    fix = f"codellama launch --ranks {layout.ranks} -- export --verify-only {folder}"
    try:
        require_started(layout)
    except ClusterError as error:
        raise ClusterError(where, f"{problem}; this process is none.", fix=fix) from error
    started = connect()[1] if layout.ranks > 1 else 1
    if started != layout.ranks:
        raise ClusterError(where, f"{problem}; the job has {started}.", fix=fix)
    return verify_again(folder, comm=join(layout), context=context, key_file=key_file, progress=progress)
