"""The files of an export directory, found and compared with its manifest. Without MindSpore."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from mindformers_codellama.checkpoint.files import FileRecord
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.mindir.manifest import MANIFEST, REMAKE, ExportManifest, Graph

READ_BLOCK = 1 << 22


def verify_files(folder: Path, manifest: ExportManifest, names: Sequence[str], *, progress: Callable[[int], object] | None = None) -> None:
    """Compare files with the manifest: they are there, of the recorded size and sha256. A file of two names is read once.

    Args:
        folder: the export directory.
        manifest: of that directory.
        names: files to look at, as `rank_files` gives them.
        progress: told the number of bytes of every piece read.

    Raises:
        CheckpointError: with the file and what is wrong with it.
    """
    for name in names:
        _check_size(folder / name, manifest.record(name))
    found: dict[tuple[int, int], str] = {}
    for name in names:
        record, place = manifest.record(name), (folder / name).stat()
        file = place.st_dev, place.st_ino
        if file not in found:
            found[file] = file_sha256(folder / name, progress)
        elif progress is not None:
            progress(record.size)
        if found[file] != record.sha256:
            problem = "is damaged or was swapped for another file: its sha256 is not the one in the manifest."
            raise CheckpointError(folder / name, problem, fix=f"copy it again, or {REMAKE}")


def file_sha256(path: Path, progress: Callable[[int], object] | None = None) -> str:
    """sha256 of a file, read a few megabytes at a time.

    Raises:
        CheckpointError: it cannot be read.
    """
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(READ_BLOCK):
                found.update(block)
                if progress is not None:
                    progress(len(block))
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}.") from error
    return found.hexdigest()


def export_folder(graph: str | Path) -> Path:
    """The export directory that a graph file belongs to: `.../mindir_*_checkpoint/rank_N[_graph].mindir` to `...`.

    Raises:
        CheckpointError: there is no manifest where it should be.
    """
    path = Path(graph).expanduser()
    folder = path.parent.parent
    if not (folder / MANIFEST).is_file():
        problem = f"has no manifest: {folder / MANIFEST} is missing."
        raise CheckpointError(path, problem, fix="keep the folders that export wrote together, or export again.")
    return folder


def graph_of_file(folder: Path, manifest: ExportManifest, path: str | Path) -> Graph:
    """The graph a person names by its file; `rank_N.mindir` and `rank_N_graph.mindir` mean the same graph.

    Raises:
        CheckpointError: the manifest does not name it.
    """
    given = Path(path).expanduser().resolve()
    stem = given.name.removesuffix(".mindir").removesuffix("_graph")
    for graph in manifest.graphs:
        own = (folder / graph.file).resolve()
        if own.parent == given.parent and own.name.removesuffix(".mindir").removesuffix("_graph") == stem:
            return graph
    raise CheckpointError(
        path, f"is not named by {folder / MANIFEST}.", fix=f"one of {', '.join(graph.file for graph in manifest.graphs)}."
    )


def _check_size(path: Path, record: FileRecord) -> None:
    if not path.is_file():
        raise CheckpointError(path, "is missing, but the manifest names it.", fix=f"copy it again, or {REMAKE}")
    size = path.stat().st_size
    if size != record.size:
        problem = f"has {size} bytes, its manifest says {record.size}: it was cut short or is another file."
        raise CheckpointError(path, problem, fix=f"copy it again, or {REMAKE}")
