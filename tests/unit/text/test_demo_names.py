"""Names of the models the project makes itself: known to the registry, and told how they are made where the package lacks them."""

import pytest

from mindformers_codellama import demo
from mindformers_codellama.cli.main import main
from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.auto import AutoTokenizer, shipped_tokenizer


def test_without_the_models_their_names_say_how_to_make_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "ASSETS", tmp_path)
    assert demo.shipped_model(demo.DEMO) is None
    with pytest.raises(TokenizerError, match=r"not in this package\. Fix: bash scripts/train_demo\.sh makes it"):
        AutoTokenizer.from_pretrained("codellama_demo")
    assert main(["infill", "app.py:1:1"]) == 2
    assert "no model is named" in capsys.readouterr().err


def test_with_the_models_both_spellings_name_them(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "ASSETS", tmp_path)
    folder = tmp_path / demo.DEMO
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes((shipped_tokenizer() / "tokenizer.model").read_bytes())
    assert demo.shipped_model("codellama-demo") == (folder, None)
    assert demo.shipped_model(demo.DEMO_INSTRUCT) == (folder, tmp_path / demo.DEMO_INSTRUCT)
    assert demo.shipped_model("codellama_tiny") is None
    assert AutoTokenizer.from_pretrained("codellama-demo").path == folder / "tokenizer.model"
