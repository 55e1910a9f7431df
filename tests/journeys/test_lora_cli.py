"""`--adapter` of predict and chat on a Hugging Face directory; transformers with the sum of the weights is the oracle."""

import copy
import io

import numpy as np
import pytest
from generation_case import answers

from mindformers_codellama.checkpoint.adapter_config import AdapterConfig
from mindformers_codellama.checkpoint.adapter_format import LowRank, write_adapter
from mindformers_codellama.checkpoint.weight_map import to_ours
from mindformers_codellama.cli.main import main
from mindformers_codellama.text.chat import Message, chat_ids

torch = pytest.importorskip("torch", reason="the oracle")
RANK = 2


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, theirs):
    """Two adapters by name: the directory, and transformers' model with it added."""
    found = {}
    for seed, name in enumerate(("polite", "terse")):
        rng = np.random.default_rng(seed)
        model, pairs = copy.deepcopy(theirs), {}
        for key, weight in model.named_parameters():
            if key.endswith(("q_proj.weight", "down_proj.weight")):
                rows, columns = weight.shape
                a, b = (rng.standard_normal(shape).astype(np.float32) * 0.4 for shape in ((RANK, columns), (rows, RANK)))
                pairs[to_ours(key)] = LowRank(a, b, 1.5)
                weight.data += 1.5 * (torch.from_numpy(b) @ torch.from_numpy(a)).to(weight.dtype)
        folder = tmp_path_factory.mktemp("adapters") / name
        write_adapter(folder, AdapterConfig(rank=RANK, alpha=3), pairs)
        found[name] = (folder, model)
    return found


def answer(model, tokenizer, text, style, new=6):
    prompt = chat_ids(tokenizer, [Message("user", text)], style)
    ids = answers(model, prompt, new)
    return tokenizer.decode(ids, skip_special_tokens=True)[len(tokenizer.decode(prompt, skip_special_tokens=True)) :].lstrip(" ")


def test_predict_answers_with_the_adapter(folder, theirs, adapters, tokenizer, capsys):
    path, model = adapters["polite"]
    words = ["predict", str(folder), "import os", "--max-new-tokens", "6", "--prompt-style", "vicuna", "--no-stream"]
    assert main([*words, "--adapter", str(path)]) == 0
    wanted = answer(model, tokenizer, "import os", "vicuna")
    assert wanted.strip() in capsys.readouterr().out
    assert wanted != answer(theirs, tokenizer, "import os", "vicuna"), "the adapter does something"


def test_chat_switches_between_adapters_and_back(folder, theirs, adapters, tokenizer, capsys, monkeypatch):
    lines = ["Hello", "/reset", "/adapter terse", "Hello", "/reset", "/adapter base", "Hello", "/adapter trese", "/adapter"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    given = ["--adapter", str(adapters["polite"][0]), "--adapter", f"terse={adapters['terse'][0]}"]
    assert main(["chat", str(folder), "--max-new-tokens", "6", "--prompt-style", "vicuna", *given]) == 0
    out, err = capsys.readouterr()
    models = (adapters["polite"][1], adapters["terse"][1], theirs)
    assert out == "".join(answer(model, tokenizer, "Hello", "vicuna") + "\n" for model in models)
    assert "adapters: base, polite, *terse (* is in use)" in err
    assert "error: adapter trese: is not loaded. Fix: did you mean terse?" in err
    assert err.rstrip().endswith("adapters: *base, polite, terse (* is in use)")


def test_packed_weights_answer_with_the_adapter_as_the_merged_model_does_and_chat_says_it_stays(
    folder, adapters, tmp_path, capsys, monkeypatch
):
    path, merged = adapters["polite"][0], tmp_path / "merged"
    assert main(["merge-lora", str(folder), str(path), str(merged), "--to", "hf"]) == 0
    shown = []
    for given in ([str(merged)], [str(folder), "--adapter", str(path)], [str(folder)]):
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/adapter\n/adapter base\n"))
        capsys.readouterr()
        assert main(["chat", *given, "--weights", "int8", "--max-new-tokens", "6", "--prompt-style", "vicuna"]) == 0
        shown.append(capsys.readouterr())
    assert shown[0].out == shown[1].out != shown[2].out
    assert "adapters: base, *polite (* is in use)" in shown[1].err
    assert "error: adapter base: the weights are packed as int8 with adapter polite merged into them" in shown[1].err
    assert shown[2].err.count("adapters: *base (* is in use)") == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--adapter", "nowhere"], 3, "nowhere: does not exist"),
        (["--adapter", "a", "--adapter", "b"], 2, "--adapter: got 2 adapters; one can be used"),
        (["--adapter", "nowhere", "--weights", "int8"], 3, "nowhere: does not exist"),
    ],
    ids=["missing", "two", "missing for packed weights"],
)
def test_an_adapter_that_cannot_be_used_is_refused(folder, capsys, words, code, told):
    assert main(["predict", str(folder), "x", *words]) == code
    assert told in capsys.readouterr().err
