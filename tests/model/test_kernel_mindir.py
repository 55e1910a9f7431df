"""A Cell with a kernel operator is exported, its library moves, and after `relocate` the file runs again."""

import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindformers_codellama.errors import CheckpointError, EnvironmentFault
from mindformers_codellama.kernels import mindir, operators
from mindformers_codellama.kernels.library import library_path, load_library

pytestmark = pytest.mark.usefixtures("graph_mode")


class Norm(nn.Cell):
    """One kernel operator with a weight."""

    def __init__(self):
        super().__init__()
        self.norm = operators.rms_norm_operator()
        self.weight = ms.Parameter(ms.Tensor(np.arange(8, dtype=np.float32)), name="weight")
        self.eps = ms.Tensor(np.array([1e-5], np.float32))

    def construct(self, x):
        return self.norm(x, self.weight, self.eps)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """An exported Cell whose library is gone, its input and its output."""
    try:
        load_library()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))
    moved = tmp_path / "elsewhere" / "a_library.so"
    moved.parent.mkdir()
    shutil.copy(library_path(), moved)
    x = ms.Tensor(np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(operators, "library_path", lambda: moved)
        cell = Norm()
        wanted = cell(x).asnumpy()
        ms.export(cell, x, file_name=str(tmp_path / "norm"), file_format="MINDIR")
    moved.unlink()
    return tmp_path / "norm.mindir", x, wanted


def test_an_exported_operator_runs_again_with_this_library(exported):
    path, x, wanted = exported
    mode = path.stat().st_mode
    assert b"a_library.so" in path.read_bytes()
    assert mindir.relocate(path) == 1
    assert b"a_library.so" not in path.read_bytes()
    assert path.stat().st_mode == mode
    np.testing.assert_array_equal(nn.GraphCell(ms.load(str(path)))(x).asnumpy(), wanted)


def test_a_file_in_its_place_is_left_alone(exported):
    path, _, _ = exported
    mindir.relocate(path)
    before = path.stat()
    assert mindir.relocate(path) == 1
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_operator_this_library_does_not_have_is_refused(exported):
    path, _, _ = exported
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"RmsNorm", b"RmsMron"))
    with pytest.raises(CheckpointError, match="needs the entry point RmsMron"):
        mindir.relocate(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        mindir.relocate(tmp_path / "none.mindir")
    (tmp_path / "text.mindir").write_text("this is no protobuf")
    with pytest.raises(CheckpointError, match="is no MindIR file"):
        mindir.relocate(tmp_path / "text.mindir")
