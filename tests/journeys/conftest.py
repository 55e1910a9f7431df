"""A tiny Hugging Face directory that transformers wrote, and transformers' own answers."""

import functools
import shutil
from pathlib import Path

import pytest
from generation_case import PROMPTS, answers

from mindformers_codellama.pipelines.open_model import open_model
from mindformers_codellama.text.auto import AutoTokenizer, shipped_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained("codellama_tiny")


@pytest.fixture(scope="session")
def theirs(tokenizer):
    torch = pytest.importorskip("torch", reason="transformers is the oracle of generation")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, **sizes, max_position_embeddings=256, rope_theta=1e6, initializer_range=0.3, pad_token_id=0
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "tiny-hf"
    theirs.save_pretrained(path)
    shutil.copy(shipped_tokenizer() / "tokenizer.model", path)
    return path


@pytest.fixture(scope="session")
def expected(theirs, tokenizer):
    """Prompt and greedy answer by transformers, as text."""
    return [tokenizer.decode(answers(theirs, tokenizer.encode(prompt)), skip_special_tokens=True) for prompt in PROMPTS]


@pytest.fixture
def reuse(folder, monkeypatch):
    """Commands of a test get a model whose graphs are compiled already."""
    name = "mindformers_codellama.pipelines.open_model.open_model"
    monkeypatch.setattr(name, lambda *_, **options: _opened(folder) if not options["load_checkpoint"] else open_model(folder, **options))


@functools.lru_cache(maxsize=1)
def _opened(folder: Path):
    return open_model(folder)
