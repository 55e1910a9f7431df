"""Exports that are damaged, mixed or edited are refused, with the file and the reason: MindSpore itself would run most of them."""

import dataclasses
import json
import os
import shutil
import sys

import mindspore as ms
import numpy as np
import pytest
from export_case import CONTEXT, export, opened, rewrite

from mindformers_codellama.checkpoint.files import FileRecord
from mindformers_codellama.errors import CheckpointError, ClusterError, EnvironmentFault
from mindformers_codellama.export.run import verify_again
from mindformers_codellama.export.stage import STAGE, lock_folder, staged
from mindformers_codellama.export.write import refuse_existing_export
from mindformers_codellama.mindir.decoder import MindIRDecoder
from mindformers_codellama.mindir.files import file_sha256
from mindformers_codellama.mindir.graph_engine import GraphEngine
from mindformers_codellama.mindir.manifest import read_export_manifest, write_export_manifest
from mindformers_codellama.parallel.comm import SINGLE

DATA = "mindir_full_checkpoint/rank_0_variables/data_0"
FULL = "mindir_full_checkpoint/rank_0_graph.mindir"
INC = "mindir_inc_checkpoint/rank_0_graph.mindir"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Of two models with the same sizes."""
    folders = [tmp_path_factory.mktemp(f"seed{seed}") for seed in (1, 2)]
    export(folders[0])
    export(folders[1], seed=2, dynamic=True, single=True, verify=False)
    return folders


@pytest.fixture
def copied(exports, tmp_path):
    """A copy that may be broken, and the other model's export."""
    shutil.copytree(exports[0], tmp_path / "export")
    return tmp_path / "export", exports[1]


def refused(folder, message, error=CheckpointError):
    with pytest.raises(error, match=message):
        opened(folder)


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [DATA, FULL, INC])
def test_one_changed_bit(copied, name):
    flip(copied[0] / name, 5000)
    refused(copied[0], f"{name}: is damaged or was swapped")


@pytest.mark.parametrize("name", [DATA, FULL, INC])
def test_a_file_cut_short_or_missing(copied, name):
    os.truncate(copied[0] / name, 4000)
    refused(copied[0], f"{name}: has 4000 bytes, its manifest says")
    (copied[0] / name).unlink()
    refused(copied[0], f"{name}: is missing")


def test_weights_or_graphs_of_another_model(copied):
    folder, other = copied
    shutil.copyfile(other / DATA, folder / DATA)
    refused(folder, f"{DATA}: is damaged or was swapped")


def test_swapped_graphs(copied):
    folder, _ = copied
    os.rename(folder / FULL, folder / "x")
    os.rename(folder / INC, folder / FULL)
    os.rename(folder / "x", folder / INC)
    refused(folder, f"{FULL}: has|{FULL}: is damaged or was swapped")


def test_a_manifest_edited_by_hand(copied):
    path = copied[0] / "export/manifest.json"
    values = json.loads(path.read_text())
    values["batch_size"] = 4
    path.write_text(json.dumps(values))
    refused(copied[0], "manifest.json: was changed after export wrote it")
    path.write_text(path.read_text()[:500])
    refused(copied[0], "manifest.json: is damaged: it is not JSON")
    path.write_text("{}")
    refused(copied[0], "manifest.json: does not describe exported graphs")
    path.unlink()
    refused(copied[0], "manifest.json: is missing")


def test_an_engine_that_could_not_be_loaded_may_be_loaded_again(copied, monkeypatch):
    folder, _ = copied
    engine, read = GraphEngine(folder, context=CONTEXT), ms.load

    calls = []

    def only_first(path, **options):
        calls.append(path)
        if len(calls) > 1:
            raise RuntimeError("no more memory")
        return read(path, **options)

    monkeypatch.setattr(ms, "load", only_first)
    with pytest.raises(CheckpointError, match=f"{INC}: MindSpore cannot read it: no more memory"):
        engine.load()
    monkeypatch.setattr(ms, "load", read)
    engine.load()
    assert MindIRDecoder(engine).prefill(np.ones((1, 2), np.int32), np.array([2], np.int32)).shape == (1, 97)


def test_a_manifest_that_says_what_cannot_be(copied):
    folder, _ = copied
    manifest = read_export_manifest(folder)
    outside = dataclasses.replace(manifest.graphs[0], file="../graph.mindir")
    files = tuple(FileRecord("../graph.mindir" if one.name == FULL else one.name, one.size, one.sha256) for one in manifest.files)
    for wrong, message in (
        ({"files": manifest.files[:-1]}, "does not have size and sha256 of just the files"),
        ({"graphs": (outside, *manifest.graphs[1:]), "files": files}, "names files outside its directory"),
        ({"world_size": 2}, r"names graphs of ranks \[0\] of 2"),
        ({"target": "gpu"}, "has the target 'gpu'"),
    ):
        write_export_manifest(folder, dataclasses.replace(manifest, **wrong))
        refused(folder, message)


def test_another_version_of_mindspore(copied):
    rewrite(copied[0], versions={"mindspore": "2.3.1"})
    refused(copied[0], "was written by MindSpore 2.3.1", EnvironmentFault)


def test_graphs_of_ranks_in_a_process_that_is_none(copied, monkeypatch):
    """MindSpore would end the process: these are refused before a graph is read."""
    folder, _ = copied
    monkeypatch.setattr(ms, "load", lambda *_, **__: sys.exit("a graph was read"))
    manifest = read_export_manifest(folder)
    graphs = (*manifest.graphs, *(dataclasses.replace(graph, rank=1) for graph in manifest.graphs))
    rewrite(folder, graphs=graphs, world_size=2, group="mccl_world_group")
    refused(folder, "is of 2 ranks that run together, and this process is none", ClusterError)
    rewrite(folder, group="hccl_world_group", target="ascend")
    refused(folder, "hccl_world_group, which cpu does not have.*--target cpu", EnvironmentFault)
    with pytest.raises(CheckpointError, match="has no full graph of rank 2; it has ranks 0, 1"):
        opened(folder, rank=2)


def test_a_key_where_there_is_none_and_none_where_there_is(copied, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(b"k" * 16)
    with pytest.raises(CheckpointError, match="is of graphs that are not encrypted"):
        opened(copied[0], key_file=key)
    rewrite(copied[0], encryption="AES-GCM")
    refused(copied[0], "is of encrypted graphs, and no key was given")


def test_comparing_again_finds_other_weights(copied):
    folder, other = copied
    assert verify_again(folder, comm=SINGLE, context=CONTEXT)["verified"]
    for name in (DATA, DATA.replace("full", "inc")):
        shutil.copyfile(other / DATA, folder / name)
    record = FileRecord(DATA, (folder / DATA).stat().st_size, file_sha256(folder / DATA))
    files = [
        dataclasses.replace(record, name=one.name) if one.name.endswith("data_0") else one for one in read_export_manifest(folder).files
    ]
    rewrite(folder, files=tuple(files))
    with pytest.raises(CheckpointError, match="the graphs give other logits than the model after a prompt: they differ by"):
        verify_again(folder, comm=SINGLE, context=CONTEXT)


def test_comparing_again_needs_what_the_model_said(copied):
    folder, _ = copied
    flip(folder / "export/reference.npz", 100)
    with pytest.raises(CheckpointError, match="reference.npz: is damaged or was swapped"):
        verify_again(folder, comm=SINGLE, context=CONTEXT)
    manifest = read_export_manifest(folder)
    rewrite(folder, reference="", files=tuple(one for one in manifest.files if one.name != manifest.reference))
    with pytest.raises(CheckpointError, match="were not compared with the model"):
        verify_again(folder, comm=SINGLE, context=CONTEXT)


def test_weights_that_are_not_numbers(copied):
    """The comparison is one that NaN does not pass."""
    from mindformers_codellama.export.reference import Reference, compare

    class Broken:
        max_length = 48

        def prefill(self, ids, lengths):
            return np.full((1, 97), np.nan, np.float32)

    reference = Reference(np.ones((1, 2), np.int32), np.array([2], np.int32), np.zeros((0, 1), np.int32), np.ones((1, 1, 97), np.float32))
    config = read_export_manifest(copied[0]).model
    with pytest.raises(CheckpointError, match="differ by inf"):
        compare(Broken(), reference, config, where="x")


def test_two_exports_into_one_folder(tmp_path):
    """The second one stops and touches nothing; what a dead one left behind goes, and so does the lock."""
    (tmp_path / STAGE).mkdir()
    (tmp_path / STAGE / "half").write_text("x")
    lock = lock_folder(tmp_path)
    with pytest.raises(CheckpointError, match="another process is exporting into it"):
        export(tmp_path, verify=False)
    assert (tmp_path / STAGE / "half").exists()
    os.close(lock)
    with staged(tmp_path, SINGLE, check=lambda: None):
        assert not list((tmp_path / STAGE).iterdir())
    os.close(lock_folder(tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_export_that_has_just_been_finished_is_not_written_over(tmp_path):
    """The names are looked at again by whoever waited for the lock."""
    (tmp_path / "mindir_full_checkpoint").mkdir()
    with (
        pytest.raises(CheckpointError, match="exists already"),
        staged(tmp_path, SINGLE, check=lambda: refuse_existing_export(tmp_path, force=False)),
    ):
        pass
    os.close(lock_folder(tmp_path))
