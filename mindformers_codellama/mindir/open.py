"""Engines by name: `graph` (MindSpore's own runner, the default) and `lite` (MindSpore Lite). Nobody changes a person's choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mindformers_codellama.config.sections_parallel import ContextSection
from mindformers_codellama.errors import CheckpointError, ConfigError
from mindformers_codellama.mindir.decoder import Fit, MindIRDecoder, any_size
from mindformers_codellama.mindir.files import export_folder, graph_of_file
from mindformers_codellama.mindir.lite_engine import LiteEngine, LitePlace
from mindformers_codellama.mindir.lite_ini import read_pair
from mindformers_codellama.mindir.manifest import MANIFEST, STANDARD, ExportManifest, read_export_manifest
from mindformers_codellama.mindir.protocol import FULL, INC, SINGLE, MindIREngine

GRAPH, LITE = "graph", "lite"
ENGINES = (GRAPH, LITE)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a person wants exported graphs to run."""

    engine: str = GRAPH
    rank_id: int = 0
    device_id: int = 0
    config_path: str = ""
    """`lite.ini`, or `full.ini,inc.ini`; of the engine lite."""
    group_info_file: str = ""
    """Communication groups of a pipeline-parallel export; of the engine lite."""
    context: ContextSection | None = None
    """Section `context`; of the engine graph. None is the CPU."""
    key_file: str = ""
    """Of encrypted graphs."""


def find_export(*, model_dir: str = "", full: str = "", inc: str = "", rank: int = 0) -> Path:
    """The export directory of what MindFormers' flags name: the directory, or a graph for prompts and one for single tokens.

    Raises:
        ConfigError: nothing, or only half of it, is named.
        CheckpointError: no manifest, a graph it does not name, one of another rank or role, or graphs of different exports.
    """
    if not (model_dir or full or inc):
        fix = "give --model_dir DIR, or --prefill_model_path FILE and --increment_model_path FILE."
        raise ConfigError("--model_dir", "nothing says which graphs to run.", fix=fix)
    named = {FULL: Path(full).expanduser() if full else None, INC: Path(inc).expanduser() if inc else None}
    folders = {str(path): export_folder(path) for path in named.values() if path is not None}
    if model_dir:
        folders[model_dir] = Path(model_dir).expanduser()
    manifests = {name: read_export_manifest(folder) for name, folder in folders.items()}
    (first, manifest), *others = manifests.items()
    for name, other in others:
        if other.model_id != manifest.model_id or folders[name].resolve() != folders[first].resolve():
            what = "another model" if other.model_id != manifest.model_id else "another export"
            raise CheckpointError(name, f"is of {what} than {first}.", fix="give both graphs of one export.")
    for role, path in named.items():
        if path is not None:
            _require(folders[first], manifest, path, role=role, rank=rank)
    if not model_dir and not manifest.single and None in named.values():
        flag = "--increment_model_path" if full else "--prefill_model_path"
        raise ConfigError(flag, "is missing: this export has two graphs.", fix="give both, or --model_dir.")
    return folders[first]


def _require(folder: Path, manifest: ExportManifest, path: Path, *, role: str, rank: int) -> None:
    graph = graph_of_file(folder, manifest, path)
    if graph.rank != rank:
        raise CheckpointError(path, f"is the graph of rank {graph.rank}, but this is rank {rank}.", fix=f"give rank_{rank}, or --rank_id.")
    if graph.role not in (role, SINGLE):
        fix = "--prefill_model_path takes mindir_full_checkpoint, --increment_model_path mindir_inc_checkpoint."
        raise CheckpointError(path, f"is the {graph.role} graph, where the {role} graph belongs.", fix=fix)


def open_engine(folder: Path, place: Place, *, progress: Callable[[int], object] | None = None) -> MindIREngine:
    """An engine over an export directory, not loaded yet.

    Raises:
        ConfigError: an unknown engine, with the nearest name; an option of the other engine; what is wrong with a `lite.ini`.
        CheckpointError: what is wrong with the export.
    """
    if place.engine not in ENGINES:
        near = get_close_matches(place.engine, ENGINES, n=1)
        fix = f"did you mean {near[0]}?" if near else f"one of {', '.join(ENGINES)}."
        raise ConfigError("--engine", f"{place.engine!r} is no engine.", fix=fix)
    key = place.key_file or None
    if place.engine == LITE:
        _require_standard(folder)
        ini = read_pair(place.config_path) if place.config_path else None
        group = Path(place.group_info_file).expanduser() if place.group_info_file else None
        if group is not None and not group.is_file():
            raise ConfigError("--group_info_file", f"{group} does not exist.", fix="give the .pb file, or leave it out.")
        where = LitePlace(device_id=place.device_id, rank_id=place.rank_id, ini=ini, group_info_file=group)
        return LiteEngine(folder, where, key_file=key, progress=progress)
    for flag, value in (("--config_path", place.config_path), ("--group_info_file", place.group_info_file)):
        if value:
            raise ConfigError(flag, "is for MindSpore Lite; the engine graph does not read it.", fix="leave it out, or give --engine lite.")
    from mindformers_codellama.mindir.graph_engine import GraphEngine  # which imports MindSpore

    return GraphEngine(folder, rank=place.rank_id, context=place.context, key_file=key, progress=progress)


def _require_standard(folder: Path) -> None:
    if read_export_manifest(folder).operators != STANDARD:
        problem = "is of the CPU kernels' operators, which MindSpore Lite does not have."
        raise CheckpointError(folder / MANIFEST, problem, fix="give --engine graph, or export again with standard operators.")


def open_decoder(engine: MindIREngine, *, dynamic: bool | None = None) -> MindIRDecoder:
    """A decoder over a loaded engine.

    Args:
        engine: loaded.
        dynamic: False pads every call of dynamic graphs to the exported length, as MindFormers does without `--dynamic`;
            None is what the export is.

    Raises:
        ConfigError: `dynamic` with graphs of fixed shapes.
    """
    manifest = engine.manifest
    if dynamic and not manifest.dynamic:
        raise ConfigError("--dynamic", f"these graphs have fixed shapes ({MANIFEST}).", fix="leave it out, or export with dynamic shapes.")
    fits: dict[str, Fit] = {FULL: any_size, INC: any_size}
    if dynamic is False:
        fits = dict.fromkeys(fits, lambda rows, _: (rows, manifest.model.seq_length))
    elif isinstance(engine, LiteEngine):
        fits |= {role: gears.fit for role, gears in engine.gears.items() if gears is not None}
    return MindIRDecoder(engine, fit_full=fits[FULL], fit_inc=fits[INC])
