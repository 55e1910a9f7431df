"""A folder of an evaluation is gone on with only by the same run: settings, and the weights behind a path."""

import argparse
import json

import pytest

from mindformers_codellama.cli.eval_output import keep_settings, model_settings, weights_digest
from mindformers_codellama.errors import ConfigError
from mindformers_codellama.pipelines.open_model import OpenedModel


@pytest.mark.parametrize("text", ["{", "[1]", "3", None])
def test_settings_that_nobody_can_read_are_refused(tmp_path, text):
    path = tmp_path / "settings.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="is missing or damaged"):
        keep_settings(path, {"model": "m"}, begun=True)
    keep_settings(path, {"model": "m"}, begun=False)
    keep_settings(path, {"model": "m"}, begun=True)
    with pytest.raises(ConfigError, match="another model"):
        keep_settings(path, {"model": "n"}, begun=True)
    assert json.loads(path.read_text()) == {"model": "m"}
    with pytest.raises(ConfigError, match="files of weights at this path are others now"):
        keep_settings(path, {"model": "m", "weights_digest": "1"}, begun=True)


def made(weights, *adapters) -> dict:
    options = ("load_checkpoint", "tokenizer", "dtype", "weights", "device", "overrides", "seq_length")
    arguments = argparse.Namespace(model="m", adapter=[f"name={folder}" for folder in adapters], **dict.fromkeys(options))
    places = {"weights": str(weights), "adapters": tuple(map(str, adapters))}
    opened = OpenedModel(model=None, tokenizer=None, generation=None, prompt_style="", batch_size=1, **places)
    return model_settings(arguments, opened)


def test_other_weights_at_the_same_place_are_other_settings(tmp_path):
    weights, adapter = tmp_path / "m/model.safetensors", tmp_path / "a/adapter_model.safetensors"
    for number, file in enumerate((weights, adapter)):
        file.parent.mkdir()
        file.write_bytes(bytes([number]) * 100)
    before = made(weights.parent, adapter.parent)
    assert made(weights.parent, adapter.parent) == before
    (weights.parent / "notes.txt").write_text("no weights")
    assert made(weights.parent, adapter.parent) == before
    adapter.write_bytes(b"2" * 100)
    assert made(weights.parent, adapter.parent) != before
    assert made(weights) == made(weights.parent)
    digest = weights_digest([str(weights)])
    weights.write_bytes(b"3" * 100)
    assert weights_digest([str(weights)]) != digest


def test_random_weights_have_no_digest():
    assert "weights_digest" not in made("")
