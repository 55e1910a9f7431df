"""`codellama export --format onnx`: two ONNX files of a model, compared with it by onnxruntime where that is installed.

DIR/onnx/full.onnx    reads prompts            DIR/onnx/inc.onnx    reads one more token of every row
DIR/onnx/onnx.json    inputs and outputs in their order, sizes, SHA-256, stop ids, what the comparison found
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.backends.mindspore_decoder import MindSporeDecoder
from mindformers_codellama.checkpoint.files import atomic_file, require_space, write_problem
from mindformers_codellama.config.model_config import ModelConfig
from mindformers_codellama.errors import CheckpointError, CodeLlamaError, ConfigError
from mindformers_codellama.export.graphs import placeholders
from mindformers_codellama.export.onnx_graphs import onnx_graph
from mindformers_codellama.export.reference import Reference, compare, prompts, run_reference
from mindformers_codellama.export.request import ExportRequest, ExportSizes
from mindformers_codellama.export.run import ExportReport
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.mindir.files import file_sha256
from mindformers_codellama.mindir.manifest import STANDARD
from mindformers_codellama.mindir.protocol import FULL, INC, Signature
from mindformers_codellama.model.llama import LlamaNetwork

logger = logging.getLogger(__name__)

FOLDER = "onnx"
STAGE = ".onnx.tmp"
LIMIT = (1 << 31) - (1 << 20)
"""Bytes of a protobuf message; an ONNX file of MindSpore's holds the weights."""
NO_RUNTIME = "onnxruntime is not installed (pip install onnxruntime)"


def onnx_findings(config: ModelConfig, layout: Layout, request: ExportRequest, sizes: ExportSizes) -> Iterator[CodeLlamaError]:
    """What of a request cannot be written as ONNX."""
    options = {
        "--dynamic": request.dynamic,
        "--single": request.single,
        "--paged-blocks": bool(request.blocks),
        "--weights": bool(request.form),
        "--operators": request.operators != STANDARD,
        "--key-file": request.key_file is not None,
        "use_parallel": layout.ranks > 1,
    }
    for name, given in options.items():
        if given:
            yield ConfigError(
                name,
                "is not for ONNX: its graphs have standard operators, fixed shapes, floating weights and one rank.",
                fix="leave it out.",
            )
    if {config.compute_dtype, config.param_init_dtype, config.softmax_compute_dtype, config.rotary_dtype} != {"float32"}:
        yield ConfigError("--dtype", f"got {config.compute_dtype}; ONNX graphs are written in float32.", fix="write --dtype float32.")
    if sizes.weights > LIMIT:
        problem = f"{sizes.weights} bytes of weights do not fit into an ONNX file, which holds 2 GiB."
        yield ConfigError("--format", problem, fix="export MindIR, or a smaller model.")


def export_onnx(build: Callable[[], LlamaNetwork], request: ExportRequest, *, sizes: ExportSizes) -> ExportReport:
    """Write the files, compare them, and give them their names.

    Args:
        build: makes the network with its weights, of plain operators.
        request: rows, folder, whether to compare.
        sizes: of the model.

    Raises:
        CheckpointError: files that are there already, a full disk, or graphs that are not the model.
    """
    started = time.perf_counter()
    target, stage = request.folder / FOLDER, request.folder / STAGE
    if target.exists() and not request.force:
        raise CheckpointError(target, "exists already.", fix="give another --output, or --force to replace it.")
    require_space(stage, 2 * sizes.weights)
    network = build()
    reference = None
    if request.verify:
        ids_BT, lengths_B = prompts(network.config, request.batch_size, list(request.prompt_ids))
        reference = run_reference(MindSporeDecoder(network), ids_BT, lengths_B)
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        signatures = _write(network, request, stage)
        config = network.config
        del network
        gc.collect()
        found = _verify(stage, config, reference, signatures)
        _describe(stage, config, request, signatures, found)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(stage, target)
    except OSError as error:
        raise write_problem(request.folder, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        with suppress(OSError):
            request.folder.rmdir()  # only if it is empty
    files = {f"{FOLDER}/{path.name}": path.stat().st_size for path in sorted(target.iterdir())}
    return ExportReport(folder=str(request.folder), files=files, seconds=time.perf_counter() - started, verification=found)


def _write(network: LlamaNetwork, request: ExportRequest, stage: Path) -> dict[str, Signature]:
    signatures = {}
    for role in (FULL, INC):
        logger.info("building the %s graph", role)
        cell, signatures[role] = onnx_graph(role, network, request.batch_size)
        ms.export(cell, *placeholders(signatures[role]), file_name=str(stage / role), file_format="ONNX")
        (stage / f"{role}.onnx").chmod(0o644)
    return signatures


def _verify(stage: Path, config: ModelConfig, reference: Reference | None, signatures: dict[str, Signature]) -> dict[str, Any]:
    if reference is None:
        return {"verified": False, "reason": "the comparison was switched off"}
    if find_spec("onnxruntime") is None:
        logger.warning("the graphs are not compared with the model: %s", NO_RUNTIME)
        return {"verified": False, "reason": NO_RUNTIME}
    found = compare(OnnxDecoder(stage, config, signatures), reference, config, where=stage.parent / FOLDER, slack=4.0)
    return {"verified": True, **found, "tokens": reference.tokens.T.tolist()}


def _describe(stage: Path, config: ModelConfig, request: ExportRequest, signatures: dict[str, Signature], found: dict[str, Any]) -> None:
    graphs = {}
    for role, signature in signatures.items():
        path = stage / f"{role}.onnx"
        record = {"file": path.name, "size": path.stat().st_size, "sha256": file_sha256(path)}
        graphs[role] = {**record, **asdict(signature)}
    values = {
        "kind": "codellama-onnx",
        "model": asdict(config),
        "graphs": graphs,
        "tokenizer": dict(request.tokenizer),
        "stop_token_ids": list(request.stop_token_ids),
        "versions": {"mindspore": ms.__version__},
        "verification": found,
    }
    with atomic_file(stage / "onnx.json") as file:
        file.write(json.dumps(values, indent=1).encode() + b"\n")


class OnnxDecoder:
    """The `Decoder` of generation over the two files, run by onnxruntime; rows as many as were exported."""

    def __init__(self, folder: Path, config: ModelConfig, signatures: dict[str, Signature]) -> None:
        import onnxruntime

        self._config, self._rows = config, signatures[FULL].inputs[0].shape[0]
        paths = {role: str(folder / f"{role}.onnx") for role in (FULL, INC)}
        self._sessions = {role: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for role, path in paths.items()}
        self._caches: list[NDArray[np.float32]] = []
        self._lengths_B: NDArray[np.int32] = np.zeros(0, np.int32)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._config.vocab_size

    @property
    def max_length(self) -> int:
        """S."""
        return self._config.seq_length

    def prefill(self, tokens_BT: NDArray[np.int32], lengths_B: NDArray[np.int32]) -> NDArray[np.float32]:
        """As `generation.protocol.Decoder`."""
        padded = np.full((len(tokens_BT), self.max_length), self._config.pad_token_id, np.int32)
        padded[:, : tokens_BT.shape[1]] = tokens_BT
        self._lengths_B = lengths_B.astype(np.int32)
        return self._run(FULL, [padded, self._lengths_B])

    def step(self, tokens_B: NDArray[np.int32]) -> NDArray[np.float32]:
        """As `generation.protocol.Decoder`."""
        self._lengths_B = np.minimum(self._lengths_B + 1, self.max_length).astype(np.int32)
        return self._run(INC, [tokens_B[:, None].astype(np.int32), self._lengths_B, *self._caches])

    def reorder(self, rows_B: NDArray[np.int32]) -> None:
        """As `generation.protocol.Decoder`."""
        self._caches = [cache[rows_B] for cache in self._caches]
        self._lengths_B = self._lengths_B[rows_B]

    def _run(self, role: str, arrays: list[NDArray[Any]]) -> NDArray[np.float32]:
        session = self._sessions[role]
        names = [one.name for one in session.get_inputs()]
        logits_BV, *self._caches = session.run(None, dict(zip(names, arrays, strict=True)))
        found: NDArray[np.float32] = logits_BV
        return found
