import io

import pytest

from mindformers_codellama.errors import DataError, Findings
from mindformers_codellama.pipelines.prompt_files import decode_newlines, read_prompts, read_stdin


def test_texts_stay_texts_and_files_give_a_prompt_per_line(tmp_path):
    (tmp_path / "a.txt").write_text("def f():\n\n  # two\n", encoding="utf-8")
    assert read_prompts(["x = 1", str(tmp_path / "a.txt")]) == ["x = 1", "def f():", "  # two"]


def test_json_lines_hold_prompts_of_several_lines(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('"a\\nb"\n{"prompt": "c\\n"}\n{"task_id": 1, "instruction": "d"}\n', encoding="utf-8")
    assert read_prompts([str(path)]) == ["a\nb", "c\n", "d"]


def test_a_folder_stands_for_its_prompt_files_in_order(tmp_path):
    for name, text in (("b.txt", "2"), ("a.txt", "1"), ("c.md", "no")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_prompts([str(tmp_path)]) == ["1", "2"]


def test_a_text_too_long_for_a_path_is_a_text():
    text = "x" * 100_000 + "\0"
    assert read_prompts([text, "y" * 5000]) == [text, "y" * 5000]


def test_bad_files_are_reported_all_at_once(tmp_path):
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "bytes.txt").write_bytes(b"ab\xff")
    (tmp_path / "bad.jsonl").write_text('"a"\n{"no": 1}\n', encoding="utf-8")
    (tmp_path / "cut.jsonl").write_text('{"prompt": ', encoding="utf-8")
    (tmp_path / "sub").mkdir()
    with pytest.raises(Findings) as caught:
        read_prompts([str(tmp_path)])
    text = str(caught.value)
    for part in (
        "empty.txt: holds no prompt",
        "bytes.txt: is not UTF-8 text (byte 2)",
        "bad.jsonl:2: holds no prompt",
        "cut.jsonl:1: is not JSON",
    ):
        assert part in text
    with pytest.raises(DataError, match="holds no .txt or .jsonl file"):
        read_prompts([str(tmp_path / "sub")])
    with pytest.raises(Findings, match=r"(?s)gone\.txt: does not exist.*empty\.txt: holds no prompt"):
        read_prompts([str(tmp_path / "gone.txt"), str(tmp_path / "empty.txt")])
    assert read_prompts(["write notes.txt"]) == ["write notes.txt"]


def test_newlines_written_out_are_decoded_in_one_text_of_any_length_but_not_in_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / r"a\nb").write_text("prompt", encoding="utf-8")
    assert decode_newlines([r"a\nb"]) == [r"a\nb"]
    assert decode_newlines(["x" * 5000 + r"\n"]) == ["x" * 5000 + "\n"]
    assert decode_newlines([r"a\n", r"b\n"]) == [r"a\n", r"b\n"]


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_standard_input_that_is_no_text_is_refused(monkeypatch, errors):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff"), encoding="utf-8", errors=errors))
    with pytest.raises(DataError, match="standard input: is not UTF-8 text"):
        read_stdin()
