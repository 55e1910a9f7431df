"""Weights of exported graphs are mapped: the same answers as when MindSpore reads them itself, nothing copied, nothing left behind."""

import shutil
import tempfile

import mindspore as ms
import numpy as np
import pytest
from export_case import export, opened

from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.kernels.mindir import read_model
from mindformers_codellama.mindir.files import file_sha256
from mindformers_codellama.mindir.mapped import lay_under, places, without_weights
from mindformers_codellama.mindir.protocol import FULL

IDS, LENGTHS = np.array([[5, 6, 7, 8], [9, 10, 0, 0]], np.int32), np.array([4, 2], np.int32)
DATA = "mindir_full_checkpoint/rank_0_variables/data_0"


def answers(decoder):
    found = [decoder.prefill(IDS, LENGTHS)]
    for _ in range(3):
        found.append(decoder.step(found[-1].argmax(-1).astype(np.int32)))
    return np.stack(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapped") / "out"
    export(folder, batch_size=2, verify=False)
    return folder


def test_answers_are_those_of_weights_that_mindspore_reads(folder, tmp_path, monkeypatch):
    """Bit for bit; also when the export is removed meanwhile. The temporary graphs go, and nothing is written into the weights."""
    shutil.copytree(folder, tmp_path / "out")
    before = file_sha256(folder / DATA)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    engine, decoder = opened(tmp_path / "out")
    assert not list((tmp_path / "temporary").iterdir())
    shutil.rmtree(tmp_path / "out")
    wanted = answers(opened(folder, maps=False)[1])
    np.testing.assert_array_equal(answers(decoder), wanted)
    engine.reset()
    np.testing.assert_array_equal(answers(decoder), wanted)
    assert file_sha256(folder / DATA) == before


def test_parameters_lie_in_the_mapped_file(folder):
    """All weights within one run of memory as long as the file, as they lie in it; caches outside of it."""
    engine, _ = opened(folder)
    offsets = places(read_model(folder / engine.manifest.graph(0, FULL).file))
    starts = {name: one.data_ptr() - offsets[name] for name, one in engine._cells[FULL].parameters_and_names()}
    weights = {start for name, start in starts.items() if "_past." not in name}
    assert len(weights) == 1
    assert not weights & {start for name, start in starts.items() if "_past." in name}


def test_a_file_that_ends_too_early_is_refused(folder, tmp_path):
    """MindSpore would read what lies behind it."""
    model = read_model(folder / "mindir_full_checkpoint/rank_0_graph.mindir")
    offsets = places(model)
    (tmp_path / "data_0").write_bytes((folder / DATA).read_bytes()[:-20000])
    with without_weights(model) as file:
        graph = ms.nn.GraphCell(ms.load(str(file)))
    with pytest.raises(CheckpointError, match="data_0: ends before the parameter .* does"):
        lay_under(graph, tmp_path / "data_0", offsets)
