import os
from pathlib import Path

import pytest
from hypothesis import settings

from mindformers_codellama.text.auto import AutoTokenizer
from mindformers_codellama.text.tokenizer import LlamaTokenizer

# two cores are shared with other work, so a slow example is no failure; the same examples every time
settings.register_profile("text", deadline=None, derandomize=True)
settings.load_profile("text")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def shared_model() -> Path:
    folder = Path(os.environ.get("CODELLAMA_SHARED_DATA") or ROOT.parent / "shared" / "data")
    path = folder / "llama_tokenizer.model"
    if not path.is_file():
        pytest.skip(f"Llama 2's tokenizer is not at {path}; set CODELLAMA_SHARED_DATA")
    return path


@pytest.fixture(scope="session")
def tiny() -> LlamaTokenizer:
    return AutoTokenizer.from_pretrained("codellama_tiny")


@pytest.fixture(scope="session")
def tiny_new() -> LlamaTokenizer:
    """The tiny tokenizer with `legacy=False`."""
    return AutoTokenizer.from_pretrained("codellama_tiny", legacy=False)
