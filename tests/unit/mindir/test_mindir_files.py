"""Files of an export are compared with its manifest before anything reads them."""

import dataclasses
import os

import pytest
from lite_case import write_export

from mindformers_codellama.checkpoint.files import FileRecord
from mindformers_codellama.errors import CheckpointError
from mindformers_codellama.mindir import files

NAMES = ("full", "inc")


@pytest.fixture
def shared(tmp_path):
    """A folder with one file under two names, and its manifest."""
    (tmp_path / "full").write_bytes(b"weights" * 1000)
    os.link(tmp_path / "full", tmp_path / "inc")
    record = FileRecord("full", 7000, files.file_sha256(tmp_path / "full"))
    manifest = write_export(tmp_path / "toy")
    return tmp_path, dataclasses.replace(manifest, files=tuple(dataclasses.replace(record, name=name) for name in NAMES))


def test_a_file_of_two_names_is_read_once(shared, monkeypatch):
    read, told, sha256 = [], [], files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path, progress=None: read.append(path) or sha256(path, progress))
    files.verify_files(*shared, NAMES, progress=told.append)
    assert len(read) == 1
    assert sum(told) == 2 * 7000, "the bar comes to its end"


def test_both_names_must_be_what_the_manifest_says(shared):
    folder, manifest = shared
    (folder / "inc").unlink()
    (folder / "inc").write_bytes(b"wEights" * 1000)
    with pytest.raises(CheckpointError, match="inc: is damaged or was swapped"):
        files.verify_files(folder, manifest, NAMES)
    (folder / "inc").unlink()
    os.link(folder / "full", folder / "inc")
    other = dataclasses.replace(manifest, files=(manifest.files[0], dataclasses.replace(manifest.files[1], sha256="0" * 64)))
    with pytest.raises(CheckpointError, match="inc: is damaged or was swapped"):
        files.verify_files(folder, other, NAMES)
