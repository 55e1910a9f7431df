"""Exported graphs answer as transformers does, whatever form they have and whoever runs them."""

import re
import sys
from pathlib import Path

import pytest
from generation_case import NEW, PROMPTS

from mindformers_codellama import pipeline
from mindformers_codellama.cli.main import main
from mindformers_codellama.errors import CodeLlamaError
from mindformers_codellama.pipelines.mindir_lm import MindIRCausalLM

FAKE = Path(__file__).resolve().parents[1] / "lite_fake"
FORMS = {"fixed": ("--batch-size", "3"), "paged": ("--batch-size", "3", "--paged-blocks", "49")}


@pytest.fixture(scope="module")
def exports(folder, tmp_path_factory):
    """One export of the tiny Hugging Face model for each form."""
    place = tmp_path_factory.mktemp("exports")
    for name, flags in FORMS.items():
        assert main(["export", str(folder), "--output", str(place / name), "--no-verify", *flags]) == 0
    return place


@pytest.fixture
def fake_lite(monkeypatch):
    monkeypatch.syspath_prepend(str(FAKE))
    yield
    sys.modules.pop("mindspore_lite", None)


@pytest.mark.parametrize("form", FORMS)
def test_the_graph_engine_answers_as_transformers(exports, expected, form):
    pipe = pipeline("text_generation", exports / form, backend="mindir", max_new_tokens=NEW)
    assert isinstance(pipe.model, MindIRCausalLM)
    answers = pipe(PROMPTS)  # 3 and 1: the last batch is not full
    assert [answer["text_generation_text"][0] for answer in answers] == expected


@pytest.mark.parametrize("form", FORMS)
def test_the_calls_of_mindspore_lite_get_as_far(fake_lite, exports, expected, form):
    graphs = sorted((exports / form).glob("mindir_full*/rank_0*.mindir")) + sorted((exports / form).glob("mindir_inc*/rank_0*.mindir"))
    ini = Path(__file__).resolve().parents[2] / "configs/codellama/lite.ini"
    pipe = pipeline("text_generation", tuple(graphs), backend="mslite", ge_config_path=str(ini), infer_seq_length=256, max_new_tokens=NEW)
    assert [answer["text_generation_text"][0] for answer in pipe(PROMPTS)] == expected


def test_the_command_streams_the_same_text(exports, expected, capsys):
    model = exports / "fixed"
    words = ["--model_dir", str(model), "--predict_data", PROMPTS[0].replace("\n", "\\n"), "--max_output_length", str(NEW)]
    assert main(["infer", *words, "--add_special_tokens", "True", "--stream", "True"]) == 0
    assert capsys.readouterr().out == expected[0] + "\n"


@pytest.mark.parametrize("engine", ["graph", "lite"])
def test_encrypted_graphs_need_their_own_key(fake_lite, folder, expected, tmp_path_factory, capsys, engine):
    place = tmp_path_factory.getbasetemp() / "encrypted"
    right, wrong = place / "right.key", place / "wrong.key"
    if not place.exists():
        place.mkdir()
        right.write_text("0123456789abcdef" * 4)
        wrong.write_text("f" * 64)
        assert main(["export", str(folder), "--output", str(place / "out"), "--no-verify", "--key-file", str(right)]) == 0
        capsys.readouterr()
    words = ["infer", "--engine", engine, "--model_dir", str(place / "out"), "--predict_data", PROMPTS[0].replace("\n", "\\n")]
    words += ["--max_output_length", str(NEW), "--add_special_tokens", "True"]
    assert main([*words, "--key_file", str(right)]) == 0
    assert capsys.readouterr().out == expected[0] + "\n"
    for key, said in (([str(wrong)], "decrypt"), ([], "encrypted graphs, and no key")):
        assert main([*words, *(["--key_file", *key] if key else [])]) in (3, 8)
        assert re.search(rf"codellama: error: .*{said}", capsys.readouterr().err)


def test_what_graphs_cannot_do_is_refused(exports):
    pipe = pipeline("text_generation", exports / "fixed", backend="mindir", max_new_tokens=NEW)
    for call, said in (
        (lambda: pipe(PROMPTS[0], num_beams=2), "no beam search"),
        (lambda: pipe(PROMPTS, use_past=False), "exported graphs keep keys and values"),
        (lambda: pipe(PROMPTS, batch_size=4), "4 prompts at once, but the graphs were exported for 3"),
        (lambda: pipeline("text_generation", exports, backend="mindir"), r"manifest\.json: is missing"),
        (lambda: pipeline("text_generation", ("a", "b")), "give backend='mslite' or 'mindir'"),
        (lambda: pipeline("text_generation", exports / "fixed", backend="mindir", infer_seq_length=64), "positions, not 64"),
        (lambda: pipeline("text_generation", exports / "fixed", backend="mindir", max_lenght=4), "did you mean max_length"),
    ):
        with pytest.raises(CodeLlamaError, match=said):
            call()
