"""`codellama infill`, `pipeline("infilling")` and `model.infill` on a Hugging Face directory of random weights.

Random weights prove the mechanics alone: the ids that are fed (transformers answers the same ids), where a middle ends, and that
nothing around the cursor changes. Whether a middle is any good needs a trained model.
"""

import io
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from generation_case import answers

import mindformers_codellama
from mindformers_codellama.cli.main import main

NEW = 9
SOURCE = "import os\r\n\r\ndef add(a, b):\r\n    \r\n\r\nprint(add(1, 2))\r\n"
PREFIX, SUFFIX = "import os\n\ndef add(a, b):\n    ", "\n\nprint(add(1, 2))\n"


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "app.py"
    path.write_bytes(SOURCE.encode())
    return path


@pytest.fixture
def no_weights(monkeypatch):
    """A test in which reading weights is a failure."""
    from mindformers_codellama.pipelines import open_model

    monkeypatch.setattr(open_model, "open_causal_lm", lambda *_, **__: pytest.fail("weights were read"))


def middle_of(theirs, tokenizer, prefix: str, suffix: str, *, suffix_first: bool, new: int = NEW) -> tuple[str, list[int]]:
    """The middle by transformers from the exact prompt, and its ids."""
    prompt = mindformers_codellama.infilling_prompt_ids(tokenizer, prefix, suffix, suffix_first=suffix_first)
    ids = answers(theirs, prompt, new, eos_token_id=[2, tokenizer.eot_id])[len(prompt) :]
    return tokenizer.decode_infilling(ids), ids


def infill(capsys, *words: str) -> tuple[int, str, str]:
    code = main(["infill", *map(str, words)])
    return (code, *capsys.readouterr())


def plain(*words) -> list[str]:
    """Options that leave everything to the model."""
    return [*map(str, words), "--no-heal", "--until", "eot", "--max-new-tokens", str(NEW)]


@pytest.mark.parametrize(("order", "suffix_first"), [("psm", False), ("spm", True), ("auto", True)])
def test_the_cursor_of_a_file_gets_what_transformers_writes_for_the_exact_ids(
    reuse, folder, theirs, tokenizer, source, capsys, order, suffix_first
):
    wanted, _ = middle_of(theirs, tokenizer, PREFIX, SUFFIX, suffix_first=suffix_first)
    code, out, err = infill(capsys, folder, *plain("app.py:4:5", "--order", order))
    assert (code, out) == (0, wanted)
    assert f"{NEW} new tokens" in err
    assert source.read_bytes() == SOURCE.encode()


def test_without_a_column_the_cursor_is_at_the_end_of_the_line(reuse, folder, source, capsys):
    wanted = infill(capsys, folder, *plain("app.py:4:5", "--json"))[1]
    assert infill(capsys, folder, *plain("app.py:4", "--json"))[:2] == (0, wanted)
    assert json.loads(wanted)["column"] == 5


def test_a_middle_is_printed_with_the_line_ends_of_the_file(reuse, folder, source, capsys, monkeypatch):
    from mindformers_codellama.pipelines import text_generation

    real = text_generation.TextGenerationPipeline.run

    def run(*words, listeners, **options):
        listeners.on_text(0, "a\nb")
        return real(*words, **options)

    monkeypatch.setattr(text_generation.TextGenerationPipeline, "run", run)
    assert infill(capsys, folder, *plain("app.py:4:5"))[1] == "a\r\nb"
    source.write_bytes(SOURCE.replace("\r", "").encode())
    assert infill(capsys, folder, *plain("app.py:4:5"))[1] == "a\nb"


def test_a_diff_and_json_at_once_are_refused(source, capsys):
    with pytest.raises(SystemExit):
        infill(capsys, "m", "app.py:4:5", "--diff", "--json")
    assert "--json: not allowed with argument --diff" in capsys.readouterr().err


def test_an_end_token_ends_the_middle_and_is_no_text(reuse, folder, theirs, tokenizer, source, capsys):
    _, ids = middle_of(theirs, tokenizer, PREFIX, SUFFIX, suffix_first=True)
    end = next(token for token in ids[2:] if token not in ids[:2])
    code, out, _ = infill(capsys, folder, *plain("app.py:4:5", "--eos-token-id", end, "--json"))
    [record] = json.loads(out)["middles"]
    assert (code, record["finish_reason"]) == (0, "eos")
    assert record["middle"] == tokenizer.decode_infilling(ids[: ids.index(end)])


def test_in_place_splices_exactly_keeps_the_old_file_and_refuses_to_lose_it(reuse, folder, theirs, tokenizer, source, capsys):
    wanted, _ = middle_of(theirs, tokenizer, PREFIX, SUFFIX, suffix_first=True)
    source.chmod(0o750)
    assert infill(capsys, folder, *plain("app.py:4:5", "--in-place"))[:2] == (0, "")
    before, after = SOURCE.split("    \r\n")
    assert source.read_bytes().decode() == before + "    " + wanted.replace("\n", "\r\n") + "\r\n" + after
    assert source.with_name("app.py.bak").read_bytes() == SOURCE.encode()
    assert source.stat().st_mode & 0o777 == 0o750
    code, _, err = infill(capsys, folder, *plain("app.py:4:5", "--in-place"))
    assert code == 3
    assert "app.py.bak: exists already" in err


def test_a_diff_changes_the_line_of_the_cursor_alone(reuse, folder, theirs, tokenizer, source, capsys):
    wanted, _ = middle_of(theirs, tokenizer, PREFIX, SUFFIX, suffix_first=True)
    _, out, _ = infill(capsys, folder, *plain("app.py:4:5", "--diff"))
    changed = [line for line in out.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed[0] == "-    "
    assert changed[1].startswith("+    " + wanted.split("\n")[0].rstrip("\r"))


def test_marks_of_a_text_of_a_file_and_of_standard_input(reuse, folder, theirs, tokenizer, source, capsys, monkeypatch):
    first, _ = middle_of(theirs, tokenizer, "f(", ")\ng()\n", suffix_first=False)
    second, _ = middle_of(theirs, tokenizer, f"f({first})\ng(", ")\n", suffix_first=False)
    wanted = f"f({first})\ng({second})\n"
    text = "f(@)\ng(@)\n"
    source.write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for target in ("f(@)\\ng(@)\\n", "app.py", "-"):
        assert infill(capsys, "--fill", "@", folder, *plain(target))[:2] == (0, wanted)


def test_healing_begins_at_the_cursor(reuse, folder, source, capsys):
    source.write_text("impor\n", encoding="utf-8")
    _, out, _ = infill(capsys, folder, "app.py:1:6", "--json", "--max-new-tokens", NEW)
    record = json.loads(out)
    [middle] = record["middles"]
    assert middle["healed"] == " impor"
    assert record["text"] == "impor" + middle["middle"] + "\n"


def test_pipeline_and_model_give_the_same_middle(folder, theirs, tokenizer):
    wanted, _ = middle_of(theirs, tokenizer, "x = [", "]\n", suffix_first=False)
    model = mindformers_codellama.LlamaForCausalLM.from_pretrained(folder)
    options = {"until": "eot", "heal": False, "max_new_tokens": NEW}
    assert model.infill("x = [", "]\n", tokenizer=tokenizer, **options) == wanted
    pipe = mindformers_codellama.pipeline("infilling", model=model, tokenizer=tokenizer, until="eot", max_new_tokens=NEW)
    assert pipe("x = [<FILL>]\n", heal=False)[0]["infilling_text"] == f"x = [{wanted}]\n"


@pytest.mark.parametrize(
    "model", ["codellama_34b_instruct", "CodeLlama-34b-Instruct-hf", "configs/codellama/predict_codellama_34b_910b.yaml"]
)
def test_a_model_that_cannot_infill_is_refused_before_its_weights_or_its_tokenizer_are_asked_for(
    no_weights, folder, tmp_path, source, capsys, model
):
    shutil.copytree(folder, tmp_path / "CodeLlama-34b-Instruct-hf")
    (tmp_path / "configs").symlink_to(Path(__file__).parents[2] / "configs")
    code, _, err = infill(capsys, model, "app.py:4:5")
    assert code == 6
    assert "codellama_34b" in err
    assert "was not trained to fill in the middle" in err
    assert "models that can infill: codellama_7b, codellama_7b_instruct, codellama_13b, codellama_13b_instruct, codellama_70b." in err


def test_a_tokenizer_without_the_marks_is_refused_before_weights_are_read(no_weights, folder, tmp_path, source, capsys):
    shutil.copytree(folder, tmp_path / "hf")
    main(["train-tokenizer", "--input", str(source), "--vocab-size", "280", "--no-infilling", "--output", "hf/tokenizer.model", "--force"])
    code, _, err = infill(capsys, "hf", "app.py:4:5")
    assert (code, "has no infilling pieces" in err) == (6, True), err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["app.py"], 2, "codellama_demo answers"),
        (["app.py"], 2, "app.py: is not FILE:LINE:COL. Fix: write src/app.py:41:9"),
        ([], 2, "there is nothing to fill in"),
        (["a", "b", "c"], 2, "got 3 words"),
        (["m", "app.py"], 2, "app.py: is not FILE:LINE:COL. Fix: write src/app.py:41:9"),
        (["m", "app.py:40:1"], 2, "there is no line 40. Fix: write a line from 1 to 7"),
        (["m", "app.py:1:11"], 2, "line 1 has no column 11. Fix: write a column from 1 to 10"),
        (["m", "no.py:1:1"], 4, "no.py: cannot be read"),
        (["m", "--fill", "@", "no.py"], 2, "no.py: is no file, and as a text it has no mark @"),
        (["m", "--fill", "@", ""], 2, "text: is no file, and as a text it has no mark @"),
        (["m", "--fill", "@", "app.py"], 2, "text: has no mark @"),
        (["m", "--fill", "@", "a@", "--in-place"], 2, "--in-place: there is no file to write"),
        (["m", "app.py:1:1", "--context", "no.py"], 4, "no.py: cannot be read"),
        (["m", "app.py:1:1", "--hole", "2"], 2, "--hole: is not an option of infill"),
    ],
)
def test_what_cannot_be_filled_in_is_refused_before_a_model_is_opened(source, capsys, words, code, says):
    found, _, err = infill(capsys, *words)
    assert (found, says in err) == (code, True), err


def test_the_environment_names_the_model(reuse, folder, source, capsys, monkeypatch):
    monkeypatch.setenv("CODELLAMA_MODEL", str(folder))
    assert infill(capsys, *plain("app.py:4:5"))[0] == 0


def test_a_file_that_was_changed_meanwhile_is_left_alone(reuse, folder, source, capsys, monkeypatch):
    from mindformers_codellama.cli import infill as command

    real = command.fill
    monkeypatch.setattr(command, "fill", lambda *words: (real(*words), source.write_bytes(b"new"))[0])
    code, _, err = infill(capsys, folder, *plain("app.py:4:5", "--in-place"))
    assert code == 4
    assert "was changed while the model wrote" in err
    assert source.read_bytes() == b"new"


def test_ctrl_c_ends_with_its_code_and_writes_nothing(reuse, folder, source, capsys, monkeypatch):
    asked = iter([False, False, True])
    monkeypatch.setattr("mindformers_codellama.cli.infill.stopping_on_interrupt", lambda: nullcontext(lambda: next(asked)))
    code, _, err = infill(capsys, folder, *plain("app.py:4:5", "--in-place"))
    assert (code, err.endswith("codellama: stopped.\n")) == (130, True)
    assert source.read_bytes() == SOURCE.encode()
    assert not source.with_name("app.py.bak").exists()
