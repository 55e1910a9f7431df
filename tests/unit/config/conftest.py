"""Small YAML files for the reader."""

from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path):
    """Write a YAML text into the test's folder; gives its path."""

    def write_file(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file
