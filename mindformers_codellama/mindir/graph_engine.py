"""The `graph` engine: exported graphs run by MindSpore itself, on the device it was installed for.

MindSpore takes damaged weights and wrong types without a word, and a graph with collectives in a process that is no rank ends
it; so everything is checked before MindSpore sees it. Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.errors import CheckpointError, ClusterError, EnvironmentFault, GenerationError, first_line
from mindformers_codellama.kernels.build import VERSION
from mindformers_codellama.kernels.choose import VARIABLE, choose_kernels
from mindformers_codellama.kernels.library import last_error, load_library
from mindformers_codellama.kernels.mindir import fitted, read_model, relocate_model, require_entries
from mindformers_codellama.mindir.files import verify_files
from mindformers_codellama.mindir.key import read_key, require_key
from mindformers_codellama.mindir.manifest import GROUPS, KERNELS, MANIFEST, ExportManifest, Graph, read_export_manifest
from mindformers_codellama.mindir.mapped import lay_under, places, without_weights
from mindformers_codellama.mindir.protocol import FULL, INC, Float32, Inputs, Signature, check_inputs
from mindformers_codellama.mindir.weights import empty_caches, share
from mindformers_codellama.parallel.comm import connect, connected
from mindformers_codellama.runtime.context import current_device, enter_context

logger = logging.getLogger(__name__)

STANDARD_FIX = "export again with standard operators."


class GraphEngine:
    """Implements `protocol.MindIREngine`.

    In memory weights and caches are there once: the data file is mapped, and both graphs use that memory (`mapped`). Weights that
    MindSpore itself reads are copied out of the file, and those of the second graph are given back once it has the first one's.

    Args:
        folder: the export directory.
        rank: whose graphs.
        context: section `context`: device and threads; always graph mode.
        key_file: of encrypted graphs.
        progress: told the bytes of every piece of a file that was compared with the manifest.
        maps: let weights be mapped wherever they can: not encrypted, on a CPU, of a type numpy has. False lets MindSpore read
            the files as they are, as any other program of its would.
    """

    name = "graph"

    def __init__(
        self,
        folder: str | Path,
        *,
        rank: int = 0,
        context: ContextSection | None = None,
        key_file: str | Path | None = None,
        progress: Callable[[int], object] | None = None,
        maps: bool = True,
    ) -> None:
        self.folder, self.rank = Path(folder).expanduser(), rank
        self._context = context or ContextSection(device_target="CPU")
        self._key = read_key(key_file) if key_file is not None else None
        self._progress, self._maps = progress, maps
        self._manifest = read_export_manifest(self.folder)
        self._cells: dict[str, nn.GraphCell] = {}
        self._rows_read = False
        self._compiled: set[str] = set()

    @property
    def manifest(self) -> ExportManifest:
        """Of the export directory."""
        return self._manifest

    def signature(self, role: str) -> Signature:
        """Of the graph for a role."""
        return self._graph(role).signature

    def load(self) -> None:
        """Check, read, share, once; errors as `protocol.MindIREngine.load`."""
        assert not self._cells, "an engine is loaded once"
        started = time.monotonic()
        manifest = self._manifest
        graphs = {role: self._graph(role) for role in (FULL, INC)}
        self._check_versions()
        require_key(self.folder / MANIFEST, manifest.encryption, self._key)
        verify_files(self.folder, manifest, manifest.rank_files(self.rank), progress=self._progress)
        enter_context(self._context)
        self._check_ranks()
        if manifest.operators == KERNELS:
            self._start_kernels()
        full = inc = self._read(graphs[FULL])
        if graphs[INC] != graphs[FULL]:
            inc = self._read(graphs[INC], full)
        self._cells = {FULL: full, INC: inc}
        logger.info("loaded %s, rank %d of %d, in %.1f s", self.folder, self.rank, manifest.world_size, time.monotonic() - started)

    def prefill(self, inputs: Inputs) -> Float32:
        """Read prompts; as `protocol.MindIREngine.prefill`."""
        logits_BV = self._run(FULL, inputs)
        self._rows_read = True
        return logits_BV

    def decode(self, inputs: Inputs) -> Float32:
        """Read one token per row; as `protocol.MindIREngine.decode`."""
        if not self._rows_read:
            raise GenerationError(f"{self.folder}: {INC}", "there are no rows to go on with.", fix="call prefill first.")
        return self._run(INC, inputs)

    def reset(self) -> None:
        """Zeros in all caches."""
        self._rows_read = False
        empty_caches(self._cells[FULL])
        if self._cells[INC] is not self._cells[FULL]:
            share(self._cells[FULL], self._cells[INC])

    def _graph(self, role: str) -> Graph:
        try:
            return self._manifest.graph(self.rank, role)
        except CheckpointError as error:
            raise CheckpointError(self.folder / error.where, error.problem, fix=error.fix) from error

    def _run(self, role: str, inputs: Inputs) -> Float32:
        assert self._cells, "load comes first"
        graph, model = self._graph(role), self._manifest.model
        where = f"{self.folder / graph.file}"
        limits = {"seq_length": model.seq_length, "vocab_size": model.vocab_size}
        arrays = check_inputs(graph.signature, inputs, where=where, kv=self._manifest.kv, **limits)
        with nullcontext() if role in self._compiled else few_objects():
            try:
                logits_BV: Float32 = self._cells[role](*(ms.Tensor.from_numpy(np.ascontiguousarray(array)) for array in arrays)).asnumpy()
            except RuntimeError as error:
                if self._manifest.operators != KERNELS:
                    raise
                raise EnvironmentFault(where, f"a kernel operator failed: {last_error() or first_line(error)}", fix=STANDARD_FIX) from error
        self._compiled.add(role)
        return logits_BV

    def _read(self, graph: Graph, first: nn.GraphCell | None = None) -> nn.GraphCell:
        """A graph with weights and caches of its own, or with those of the first one."""
        path, kernels = self.folder / graph.file, self._manifest.operators == KERNELS
        if self._can_map(graph):
            model = read_model(path)
            if kernels:
                relocate_model(path, model)
            offsets = places(model)
            with without_weights(model) as file:
                cell = self._load(path, file)
            if first is None:
                lay_under(cell, self.folder / graph.data[0], offsets)
        else:
            with fitted(path) if kernels else nullcontext(path) as file:
                cell = self._load(path, file)
        if first is not None:
            share(first, cell)
        if any(None in spec.shape for spec in graph.signature.inputs):
            # else every length would be compiled anew
            cell.set_inputs(*(ms.Tensor(shape=list(spec.shape), dtype=getattr(ms, spec.dtype)) for spec in graph.signature.inputs))
        return cell

    def _can_map(self, graph: Graph) -> bool:
        model = self._manifest.model
        plain = "bfloat16" not in (model.compute_dtype, model.param_init_dtype)
        return self._maps and plain and len(graph.data) == 1 and current_device() == "CPU"

    def _load(self, path: Path, file: Path) -> nn.GraphCell:
        """Let MindSpore read a file, which may be another one than the export's `path`."""
        try:
            return nn.GraphCell(ms.load(str(file), **({"dec_key": self._key, "dec_mode": self._manifest.encryption} if self._key else {})))
        except (RuntimeError, ValueError) as error:
            fix = "give the key file that export was given." if self._key else "export again: codellama export."
            problem = "cannot be decrypted with this key." if self._key else f"MindSpore cannot read it: {first_line(error)}"
            raise CheckpointError(path, problem, fix=fix) from error

    def _check_versions(self) -> None:
        written, here = str(self._manifest.versions.get("mindspore")), str(ms.__version__)
        if written.split(".")[:2] != here.split(".")[:2]:
            problem = f"was written by MindSpore {written}; this is {here}, and nothing promises that graphs fit another version."
            raise EnvironmentFault(self.folder / MANIFEST, problem, fix=f"export again here, or install mindspore=={written}.")

    def _start_kernels(self) -> None:
        """The kernel library is there, is the one the graphs were written for, and computes with this context's threads."""
        manifest, where, device = self._manifest, self.folder / MANIFEST, current_device()
        if device != "CPU":
            raise EnvironmentFault(where, f"is of the CPU kernels' operators, which do not run on {device}.", fix=STANDARD_FIX)
        if manifest.kernel_version != VERSION:
            problem = f"needs version {manifest.kernel_version} of the kernels; this package has {VERSION}."
            raise EnvironmentFault(where, problem, fix="export again here, or install the version that wrote it.")
        try:
            load_library()
        except EnvironmentFault as error:
            problem = f"is of the CPU kernels' operators, which cannot be used: {error.where}: {error.problem}"
            raise EnvironmentFault(
                where, problem, fix=f"install this package again (a C++ compiler is needed), or {STANDARD_FIX}"
            ) from error
        require_entries(manifest.entry_points, where=where)
        if choose_kernels("auto", device=device, threads=self._context.runtime_num_threads) is None:
            problem = f"is of the CPU kernels' operators, and ${VARIABLE} switches them off."
            raise EnvironmentFault(where, problem, fix=f"unset it, or {STANDARD_FIX}")

    def _check_ranks(self) -> None:
        """A graph with collectives in a process that is no rank of the right job would crash it."""
        manifest, where = self._manifest, self.folder / MANIFEST
        if manifest.world_size == 1:
            return
        device = current_device().lower()
        if manifest.group != GROUPS[device]:
            problem = f"is for {manifest.target}: its graphs talk in the group {manifest.group}, which {device} does not have."
            raise EnvironmentFault(where, problem, fix=f"export again with --target {device}.")
        fix = f"start {manifest.world_size} ranks: codellama launch --ranks {manifest.world_size} -- ..., or scripts/run_lite.sh."
        rank, ranks = _place(where, f"is of {manifest.world_size} ranks that run together, and this process is none of a job.", fix)
        if ranks != manifest.world_size:
            raise ClusterError(where, f"is of {manifest.world_size} ranks, the job has {ranks}.", fix=fix)
        if rank != self.rank:
            raise ClusterError(
                where, f"rank {self.rank} was asked for, but this process is rank {rank} of the job.", fix="give its own rank."
            )


@contextmanager
def few_objects() -> Iterator[None]:
    """Hide what there is from Python's garbage collector.

    MindSpore collects garbage whenever it compiles, which over all the objects of its own modules takes longer (about 70 ms) than
    compiling these graphs does.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _place(where: Path, problem: str, fix: str) -> tuple[int, int]:
    """(rank, ranks) of this process in its job."""
    try:
        return connect()
    except ClusterError as error:
        if connected() or error.where != "use_parallel":
            raise
        raise ClusterError(where, problem, fix=fix) from error
