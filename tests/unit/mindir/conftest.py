"""The fake package `mindspore_lite`, only where a test asks for it."""

import sys

import pytest
from lite_case import FAKE


@pytest.fixture
def fake_lite(monkeypatch):
    """`import mindspore_lite` gives tests/lite_fake."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.delitem(sys.modules, "mindspore_lite", raising=False)
    import mindspore_lite

    yield mindspore_lite
    sys.modules.pop("mindspore_lite", None)
