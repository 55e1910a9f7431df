"""The name of the communication group in graphs: MindSpore calls the group of all ranks differently on CPU and Ascend."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mindspore.train import mind_ir_pb2

from mindformers_codellama.checkpoint.files import FileRecord
from mindformers_codellama.export.proto import rename_world, write_graph
from mindformers_codellama.mindir.manifest import GROUPS, ExportManifest


def retarget(folder: Path, manifest: ExportManifest, rank: int, target: str) -> list[FileRecord]:
    """Rewrite the graphs of one rank for another target; records of the files that changed, none when nothing did.

    Args:
        folder: where the files are.
        manifest: of those files.
        rank: whose graphs.
        target: `cpu` or `ascend`.
    """
    if not manifest.group or manifest.group == GROUPS[target]:
        return []
    records = []
    for graph in manifest.graphs:
        if graph.rank == rank:
            model = mind_ir_pb2.ModelProto()
            model.ParseFromString((folder / graph.file).read_bytes())
            changed = rename_world(model, GROUPS[target])
            assert changed, f"{graph.file} was said to talk in {manifest.group}"
            (folder / graph.file).unlink()
            records.append(dataclasses.replace(write_graph(folder / graph.file, model), name=graph.file))
    return records
