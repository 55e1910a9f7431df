"""`codellama infer` over toy graphs (tests/lite_fake): every flag does something, and what cannot be served is refused."""

import hashlib
import io
import sys
from pathlib import Path

import pytest
from lite_case import SALT, write_export

from mindformers_codellama.cli.main import main
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.text.auto import AutoTokenizer, shipped_tokenizer

PROMPT = "def add(a, b):\n"
WORDS = shipped_tokenizer() / "tokenizer.model"
VOCAB = 2048


@pytest.fixture
def export(fake_lite, tmp_path, monkeypatch):
    """The folder of a toy export with the shipped tokenizer; the current folder."""
    monkeypatch.chdir(tmp_path)
    stated = {"path": str(WORDS), "sha256": hashlib.sha256(WORDS.read_bytes()).hexdigest()}
    write_export(tmp_path / "out", batch=2, vocab=VOCAB, tokenizer=stated)
    return tmp_path / "out"


def infer(capsys, *words, code=0, model=("--model_dir", "out"), engine=("--engine", "lite")):
    assert main(["infer", *model, *engine, *map(str, words)]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def answer(fake, prompt, limit, *, special=True):
    """Prompt and greedy text up to `limit` tokens, from the toy's formula."""
    tokenizer = AutoTokenizer.from_pretrained(shipped_tokenizer())
    row = tokenizer.encode(prompt, special)
    start = len(row)
    while len(row) < limit and (len(row) == start or row[-1] != 2):
        row.append(int(fake.toy_logits(row, VOCAB, SALT).argmax()))
    before = tokenizer.decode(row[:start], skip_special_tokens=True)
    return prompt + tokenizer.decode(row, skip_special_tokens=True)[len(before) :]


def test_a_prompt_is_answered_as_often_as_asked(export, fake_lite, capsys):
    wanted = answer(fake_lite, PROMPT, 40)
    flags = ("--add_special_tokens", "True", "--max_length", 40, "--predict_data", PROMPT.replace("\n", "\\n"))
    assert infer(capsys, *flags) == wanted + "\n"
    assert infer(capsys, *flags, "--generated_time", 3, "--batch_size", 2) == (wanted + "\n") * 6
    assert infer(capsys, *flags, "--stream", "True") == wanted + "\n"
    assert infer(capsys, *flags, "--max_output_length", 4) == answer(fake_lite, PROMPT, len(_ids(PROMPT)) + 4) + "\n"
    assert infer(capsys, *flags[2:]) == answer(fake_lite, PROMPT, 40, special=False) + "\n"


def test_both_graphs_may_be_named_and_the_template_wraps_the_prompt(export, fake_lite, capsys):
    graphs = [f"out/mindir_{role}_checkpoint/rank_0_graph.mindir" for role in ("full", "inc")]
    model = ("--prefill_model_path", graphs[0], "--increment_model_path", graphs[1])
    flags = ("--predict_data", "x", "--prompt", "Ask: {} Answer:", "--max-length", 30, "--seq_length", 128, "--tokenizer_path", WORDS)
    assert infer(capsys, *flags, model=model) == answer(fake_lite, "Ask: x Answer:", 30, special=False) + "\n"


def test_prompts_are_asked_for_until_exit(export, fake_lite, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\nexit\nthree\n"))
    out = infer(capsys, "--max_length", 20)
    assert out.count("Please enter your predict data:") == 4
    assert answer(fake_lite, "two", 20, special=False) in out
    assert "three" not in out
    assert out.endswith("Task is over.\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    assert infer(capsys, "--max_length", 20).endswith("Task is over.\n"), "the end of the input ends it as well"


def test_a_prompt_that_cannot_be_answered_does_not_end_the_conversation(export, fake_lite, capsys, monkeypatch):
    long = "def f(x):" * 60
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{long}\ntwo\nexit\n"))
    code = main(["infer", "--model_dir", "out", "--engine", "lite", "--max_length", "20"])
    captured = capsys.readouterr()
    assert answer(fake_lite, "two", 20, special=False) in captured.out
    assert captured.err.count("codellama: error:") == 1
    assert code == GenerationError.exit_code, "a script sees that one of its prompts was not answered"


def test_drawing_takes_the_flags(export, capsys):
    flags = ("--predict_data", PROMPT, "--max_length", 60)
    greedy = infer(capsys, *flags)
    assert infer(capsys, *flags, "--do_sample", "True") == greedy, "MindFormers' default draws among the one most likely"
    assert infer(capsys, *flags, "--do_sample", "True", "--top_k", 0, "--temperature", 5) != greedy
    assert infer(capsys, *flags, "--repetition_penalty", 0.01) != greedy


def test_options_of_drawing_without_drawing_are_told(export, capsys, caplog):
    assert main(["infer", "--model_dir", "out", "--engine", "lite", "--predict_data", "x", "--max_length", "20", "--top_k", "5"]) == 0
    assert "--top_k has no effect without --do_sample True" in capsys.readouterr().err + caplog.text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--is_sample_acceleration", "True"), "tokens are chosen outside"),
        (("--model_name", "glm2"), "is not in the model registry"),
        (("--model_name", "codelama_7b"), "did you mean codellama_7b?"),
        (("--model_name", "codellama_99b"), "'codellama_99b' is not in the model registry. Fix: did you mean codellama_"),
        (("--batch_size", "0"), "--batch_size: got 0, must be at least 1"),
        (("--batch_size", "3"), "the graphs were exported for 2"),
        (("--generated_time", "2"), "repeats --predict_data, which is empty"),
        (("--predict_data", "x", "--generated_time", "0"), "--generated_time: got 0"),
        (("--prompt", "no place"), "has no {}"),
        (("--stream", "True", "--batch_size", "2"), "one answer at a time"),
        (("--distributed", "True"), "ranks cannot ask for prompts"),
        (("--seq_length", "256"), "its graphs have 128 positions, not 256"),
        (("--rank_id", "1"), "has no full graph of rank 1"),
        (("--rank_id", "-1"), "--rank_id: got -1"),
        (("--dynamic", "True"), "these graphs have fixed shapes"),
        (("--engine", "lit"), "did you mean lite?"),
        (("--engine", "graph", "--config_path", "lite.ini"), "the engine graph does not read it"),
        (("--config_path", "nowhere.ini"), "nowhere.ini: cannot be read"),
        (("--group_info_file", "nowhere.pb"), "nowhere.pb does not exist"),
        (("--tokenizer_path", "nowhere"), "nowhere: is neither"),
        (("--predict_data", "x " * 200), "no room for an answer"),
        (("--key_file", "nowhere.key"), "nowhere.key: cannot be read"),
    ],
)
def test_what_cannot_be_served_is_refused(export, capsys, flags, said):
    message = infer(capsys, *flags, code=_code(flags, said))
    assert said in message
    assert message.startswith("codellama: error: ")


def _code(flags, said):
    kinds = {"positions, not": 3, "no full graph": 3, "nowhere: is neither": 5, "no room": 6, "nowhere.key": 3}
    return next((code for text, code in kinds.items() if text in said), 2)


def test_another_tokenizer_than_the_exports_is_refused(export, capsys, tmp_path):
    stated = {"path": "theirs", "sha256": "0" * 64}
    write_export(tmp_path / "out", batch=2, vocab=VOCAB, tokenizer=stated)
    message = infer(capsys, "--tokenizer_path", WORDS, "--predict_data", "x", code=5)
    assert "is not the tokenizer that the graphs were exported with (theirs)" in message
    write_export(tmp_path / "out", batch=2, vocab=VOCAB)
    assert "names no tokenizer" in infer(capsys, "--predict_data", "x", code=5)
    assert infer(capsys, "--predict_data", "x", "--model_name", "codellama_tiny", "--max_length", 5)


def test_graphs_are_of_one_export_and_in_their_places(export, capsys, tmp_path):
    write_export(tmp_path / "other", vocab=VOCAB, salt=5)
    write_export(tmp_path / "two", vocab=VOCAB, ranks=2)
    full, inc = (f"mindir_{role}_checkpoint/rank_0.mindir" for role in ("full", "inc"))

    def refused(first, second, *more):
        model = [
            word for flag, path in (("--prefill_model_path", first), ("--increment_model_path", second)) if path for word in (flag, path)
        ]
        return infer(capsys, "--predict_data", "x", *more, model=model, code=3 if second else 2)

    assert f"other/{inc}: is of another model than out/{full}" in refused(f"out/{full}", f"other/{inc}")
    assert f"out/{inc}: is the inc graph, where the full graph belongs" in refused(f"out/{inc}", f"out/{full}")
    assert "--increment_model_path: is missing" in refused(f"out/{full}", "")
    assert "is the graph of rank 0, but this is rank 1" in refused(f"two/{full}", f"two/{inc}", "--rank_id", 1)
    assert "nothing says which graphs to run" in infer(capsys, model=(), code=2)
    assert "rank_7.mindir: is not named by" in refused("out/mindir_full_checkpoint/rank_7.mindir", f"out/{inc}")


def test_several_ranks_are_started_as_such(export, capsys, tmp_path):
    write_export(tmp_path / "two", vocab=VOCAB, ranks=2)
    model = ("--model_dir", "two")
    assert "--distributed: is False, but the graphs are for 2 ranks" in infer(capsys, "--predict_data", "x", model=model, code=2)
    late = ("--predict_data", "x", "--distributed", "True", "--rank_id", 2)
    assert "--rank_id: got 2, but the graphs are for 2 ranks" in infer(capsys, *late, model=model, code=2)


def test_a_manifest_that_was_edited_is_refused(export, capsys):
    path = export / "export" / "manifest.json"
    path.write_text(path.read_text().replace('"batch_size": 2', '"batch_size": 8'))
    assert "was changed after export wrote it" in infer(capsys, "--predict_data", "x", code=3)
    path.unlink()
    assert "out/export/manifest.json: is missing" in infer(capsys, "--predict_data", "x", code=3)


def test_without_the_package_the_engine_is_not_changed(export, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path).name == "lite_fake"])
    sys.modules.pop("mindspore_lite")
    assert "mindspore_lite: is not installed" in infer(capsys, "--predict_data", "x", code=8)


def test_a_wrong_truth_value_is_refused_with_the_flag(export, capsys):
    with pytest.raises(SystemExit):
        main(["infer", "--stream", "maybe"])
    assert "argument --stream: got 'maybe', must be True or False" in capsys.readouterr().err


def _ids(prompt):
    return AutoTokenizer.from_pretrained(shipped_tokenizer()).encode(prompt)
