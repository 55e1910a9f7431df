"""`LiteEngine`: MindSpore Lite on Ascend runs the exported graphs. Not run on Ascend; tested against a fake of the documented calls.

The calls are those of MindSpore Lite 2.7 (`python/api/{context,model,tensor}.py`) in the order of its page "Ascend Backend GE
Inference", as MindFormers 1.0 makes them (`mindformers/inference`): a context for GE, both models into one group that shares
weights, then each is built; every call hands over its inputs by position. The cache is a variable of both graphs, so what the
prompt's graph wrote is what the other one reads.
Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindformers_codellama.cluster.rank_table_check import findings
from mindformers_codellama.cluster.rank_table_read import read_rank_table
from mindformers_codellama.errors import CheckpointError, ConfigError, EnvironmentFault, GenerationError, first_line, raise_all
from mindformers_codellama.mindir.files import verify_files
from mindformers_codellama.mindir.key import read_key, require_key
from mindformers_codellama.mindir.lite_gears import DIMS, SHAPE, Gears, read_gears
from mindformers_codellama.mindir.lite_ini import ASCEND, GRAPH, PROVIDER, LiteIni
from mindformers_codellama.mindir.manifest import MANIFEST, ExportManifest, read_export_manifest
from mindformers_codellama.mindir.protocol import ACTIVE_LENGTH, FULL, INC, INPUT_IDS, Float32, Inputs, Signature, check_inputs

logger = logging.getLogger(__name__)

Progress = Callable[[int], object]
PACKAGE = "mindspore_lite"
DEVICES = 4096
"""Devices of a machine at most, as MindFormers' flag says."""


@dataclass(frozen=True, kw_only=True)
class LitePlace:
    """Where and how MindSpore Lite runs one rank."""

    device_id: int = 0
    rank_id: int = 0
    ini: tuple[LiteIni, LiteIni] | None = None
    """Of the full and of the increment graph; None leaves MindSpore Lite its defaults."""
    group_info_file: Path | None = None
    """Communication groups of a pipeline-parallel export; None when there is only the group of all ranks."""


def import_lite() -> Any:
    """The package `mindspore_lite`.

    Raises:
        EnvironmentFault: it is not installed, or cannot be loaded.
    """
    try:
        return import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise EnvironmentFault(PACKAGE, f"is installed, but needs {error.name}, which is not.", fix="install that too.") from error
        problem = "is not installed; the engine lite cannot run without it."
        fix = "install MindSpore Lite's wheel for your Ascend machine (it is not on the package index), or use the engine graph."
        raise EnvironmentFault(PACKAGE, problem, fix=fix) from error
    except (ImportError, OSError) as error:
        problem = f"is installed but cannot be loaded: {first_line(error)}"
        raise EnvironmentFault(PACKAGE, problem, fix="source CANN's set_env.sh and import mindspore_lite first.") from error


class LiteEngine:
    """Implements `protocol.MindIREngine` with MindSpore Lite.

    Args:
        folder: the export directory.
        place: device, rank and configuration.
        key_file: of encrypted graphs.
        progress: told the bytes of every piece of a file that is checked.

    Raises:
        CheckpointError: no manifest, or graphs that MindSpore Lite cannot run.
        ConfigError: a rank or device that does not exist, or a `lite.ini` that does not fit the graphs.
    """

    name = "lite"

    def __init__(
        self, folder: Path, place: LitePlace, *, key_file: str | Path | None = None, progress: Callable[[int], object] | None = None
    ) -> None:
        self.folder, self.place = folder, place
        self._manifest = read_export_manifest(folder)
        self._key = read_key(key_file) if key_file is not None else None
        self._progress = progress
        self._graphs = {role: self._manifest.graph(place.rank_id, role) for role in (FULL, INC)}
        self._models: dict[str, Any] = {}
        self._lite: Any = None
        self._group: Any = None  # lives as long as its models
        self._has_rows = False
        _check_target(folder, self._manifest)
        require_key(folder / MANIFEST, self._manifest.encryption, self._key)
        if self._manifest.single and place.ini is not None and place.ini[0] is not place.ini[1]:
            problem = "names two files, but this export has a single graph."
            raise ConfigError("--config_path", problem, fix=f"give one: {place.ini[0].path}.")
        self.config = _rank_config(self._manifest, place)
        self.gears: dict[str, Gears | None] = {role: self._gears(index, role) for index, role in enumerate((FULL, INC))}

    @property
    def manifest(self) -> ExportManifest:
        """Of the export directory."""
        return self._manifest

    def signature(self, role: str) -> Signature:
        """Of the graph that `prefill` (role `full`) or `decode` (role `inc`) runs."""
        return self._graphs[role].signature

    def load(self) -> None:
        """Check every file of this rank, make the context, group the models, build them.

        Raises:
            EnvironmentFault: no `mindspore_lite`, or it refuses the device or the graphs.
            CheckpointError: files that are missing, damaged or swapped.
        """
        self._lite = import_lite()
        verify_files(self.folder, self._manifest, self._manifest.rank_files(self.place.rank_id), progress=self._progress)
        with _told("the context"):
            context = self._context()
        roles = (FULL,) if self._manifest.single else (FULL, INC)
        models = {role: self._lite.Model() for role in roles}
        if len(roles) == 2:
            with _told("the group of both graphs"):
                # before either is built: the second then takes the weights and the cache of the first
                self._group = self._lite.ModelGroup(self._lite.ModelGroupFlag.SHARE_WEIGHT)
                self._group.add_model([models[FULL], models[INC]])
        for index, role in enumerate(roles):
            with _told(self.folder / self._graphs[role].file):
                self._build(models[role], role, index, context)
        self._models = {FULL: models[FULL], INC: models.get(INC, models[FULL])}

    def prefill(self, inputs: Inputs) -> Float32:
        """Forget the rows before, read prompts; float32 `(B, V)` after each one's last token."""
        logits_BV = self._run(FULL, inputs)
        self._has_rows = True
        return logits_BV

    def decode(self, inputs: Inputs) -> Float32:
        """Read one more token of every row; float32 `(B, V)`."""
        if not self._has_rows:
            raise GenerationError("decode", "there are no rows: no prompt was read.", fix="call prefill first.")
        return self._run(INC, inputs)

    def reset(self) -> None:
        """Forget all rows. The cache is on the device; every position is written again before it is read."""
        self._has_rows = False

    def _context(self) -> Any:
        context = self._lite.Context()
        context.ascend.device_id = self.place.device_id
        context.ascend.rank_id = self.place.rank_id
        context.ascend.provider = PROVIDER
        context.target = ["Ascend"]
        if self.place.group_info_file is not None:
            context.group_info_file = str(self.place.group_info_file)
        return context

    def _build(self, model: Any, role: str, index: int, context: Any) -> None:
        options: dict[str, Any] = {}
        if self.place.ini is not None:
            options["config_path"] = str(self.place.ini[index].path)
        said = {section: dict(keys) for section, keys in self.config.items()}
        gears = self.gears[role]
        if gears is not None:  # with the graph's own names and sizes
            said[GRAPH] = dict(gears.options)
        if said:
            options["config_dict"] = said  # wins over the file
        if self._manifest.encryption:
            options |= {"dec_key": self._key, "dec_mode": self._manifest.encryption}
        path = str(self.folder / self._graphs[role].file)
        model.build_from_file(path, self._lite.ModelType.MINDIR, context, **options)
        given = [(tuple(tensor.shape), tensor.dtype.name.lower()) for tensor in model.get_inputs()]
        _check_signature(self.folder / self._graphs[role].file, self._graphs[role].signature, given)

    def _run(self, role: str, inputs: Inputs) -> Float32:
        assert self._models, "load comes first"
        model_config, signature = self._manifest.model, self._graphs[role].signature
        where = f"{role} graph of rank {self.place.rank_id}"
        sizes = {"seq_length": model_config.seq_length, "vocab_size": model_config.vocab_size}
        arrays = check_inputs(signature, inputs, where=where, kv=self._manifest.kv, **sizes)
        self._check_gear(role, inputs)
        with _told(where):
            outputs = self._models[role].predict([self._lite.Tensor(np.ascontiguousarray(array)) for array in arrays])
            found: NDArray[Any] = outputs[0].get_data_to_numpy()
        rows = len(inputs[INPUT_IDS])
        if found.shape not in ((rows, model_config.vocab_size), (rows, 1, model_config.vocab_size)):
            problem = f"gave logits {found.shape}, must be ({rows}, {model_config.vocab_size})."
            raise EnvironmentFault(where, problem, fix="report this with the versions of MindSpore Lite and CANN.")
        # MindSpore Lite's array is a view of its own memory, which the next call overwrites
        return np.array(found.reshape(rows, -1), np.float32)

    def _gears(self, index: int, role: str) -> Gears | None:
        if self.place.ini is None:
            return None
        ini = self.place.ini[index]
        if not self._manifest.dynamic:
            for key in (SHAPE, DIMS):
                if ini.value(GRAPH, key):
                    problem = "is for graphs of dynamic shapes; these were exported with fixed ones."
                    raise ConfigError(ini.where(GRAPH, key), problem, fix="leave it out, or export with --dynamic.")
            return None
        size = self._manifest.model.seq_length
        return read_gears(ini, self._graphs[role].signature, batch_size=self._manifest.batch_size, seq_length=size)

    def _check_gear(self, role: str, inputs: Inputs) -> None:
        gears = self.gears[role]
        if gears is None:
            return
        rows, width = inputs[INPUT_IDS].shape
        size = (rows, len(inputs[ACTIVE_LENGTH]) if ACTIVE_LENGTH in inputs else width)
        if size not in gears.sizes:
            raise GenerationError(f"{role} graph", f"{size[0]} rows of {size[1]} positions are no gear.", fix="pad to one of lite.ini's.")


def _check_target(folder: Path, manifest: ExportManifest) -> None:
    if manifest.world_size > 1 and manifest.target != "ascend":
        problem = f"its graphs name the communication group {manifest.group} of {manifest.target}."
        raise CheckpointError(folder, problem, fix="export with --target ascend for MindSpore Lite, or use the engine graph.")


def _rank_config(manifest: ExportManifest, place: LitePlace) -> dict[str, dict[str, str]]:
    """What is said to MindSpore Lite beside the file: where the rank table is; checked against ranks and devices.

    Raises:
        ConfigError: no rank table for several ranks, or another rank or device than it has.
        ClusterError: what is wrong with the rank table.
    """
    if not 0 <= place.device_id < DEVICES:
        raise ConfigError("--device_id", f"got {place.device_id}, must be in [0, {DEVICES}).")
    table_file = place.ini[0].rank_table if place.ini else None
    if table_file is None:
        if manifest.world_size > 1:
            problem = f"no rank table is named, but the graphs are for {manifest.world_size} ranks."
            where = place.ini[0].where(ASCEND, "rank_table_file") if place.ini else "--config_path"
            raise ConfigError(where, problem, fix="write rank_table_file=PATH into [ascend_context] of lite.ini.")
        return {}
    table = read_rank_table(table_file)
    raise_all(findings(table).errors)
    if table.ranks != manifest.world_size:
        problem = f"has {table.ranks} ranks; the graphs are for {manifest.world_size}."
        raise ConfigError(table_file, problem, fix="make a table for these ranks: codellama rank-table make.")
    devices = {device.rank_id: device.device_id for device in table.devices}
    if devices[place.rank_id] != place.device_id:
        problem = f"got {place.device_id}, but {table_file} gives rank {place.rank_id} the device {devices[place.rank_id]}."
        raise ConfigError("--device_id", problem, fix=f"give --device_id {devices[place.rank_id]}, or another table.")
    return {ASCEND: {"rank_table_file": str(table_file)}}


def _check_signature(path: Path, signature: Signature, given: Sequence[tuple[tuple[int, ...], str]]) -> None:
    """MindSpore Lite sees the inputs that the manifest says, in that order; -1 is any size."""
    wanted = [(tuple(-1 if size is None else size for size in spec.shape), spec.dtype) for spec in signature.inputs]
    if len(given) != len(wanted) or not all(map(_same_input, given, wanted)):
        problem = f"takes {_listed(given)} in MindSpore Lite; its manifest says {_listed(wanted)}."
        raise CheckpointError(path, problem, fix="export again with this version.")


def _same_input(given: tuple[tuple[int, ...], str], wanted: tuple[tuple[int, ...], str]) -> bool:
    sizes = zip(given[0], wanted[0], strict=False)
    return given[1] == wanted[1] and len(given[0]) == len(wanted[0]) and all(own == other or -1 in (own, other) for own, other in sizes)


def _listed(inputs: Sequence[tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{dtype} {shape}" for shape, dtype in inputs) or "nothing"


@contextmanager
def _told(where: object) -> Iterator[None]:
    """What MindSpore Lite refuses, told as an error of the place."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        fix = "see MindSpore Lite's own log above; GLOG_v=1 makes it say more."
        raise EnvironmentFault(where, f"MindSpore Lite refused it: {first_line(error)}", fix=fix) from error
