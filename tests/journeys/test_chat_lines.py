"""`codellama chat` on a Hugging Face directory, its lines read from standard input; transformers is the oracle."""

import io
import os
import signal
from pathlib import Path

import pytest
from generation_case import answers

from mindformers_codellama.cli.interrupts import stopping_on_interrupt
from mindformers_codellama.cli.main import main
from mindformers_codellama.text.chat import Message, chat_ids


def chat(folder: Path, monkeypatch, capsys, lines: list[str], *words: str) -> tuple[str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    assert main(["chat", str(folder), "--max-new-tokens", "6", *words]) == 0
    return capsys.readouterr()


def test_chat_remembers_resets_and_ends(reuse, folder, theirs, tokenizer, capsys, monkeypatch):
    def answer(*turns: str) -> str:
        messages = [Message(("user", "assistant")[place % 2], text) for place, text in enumerate(turns)]
        prompt = chat_ids(tokenizer, messages, "vicuna")
        ids = answers(theirs, prompt, 6)
        return tokenizer.decode(ids, skip_special_tokens=True)[len(tokenizer.decode(prompt, skip_special_tokens=True)) :]

    first = answer("Hello")
    second = answer("Hello", first.strip(), "two\nlines")
    third = answer("two\nlines")
    lines = ["Hello", "two\\", "lines", "/reset", "", "two\\", "lines", "/help", "/no", "/exit", "never"]
    out, err = chat(folder, monkeypatch, capsys, lines, "--prompt-style", "vicuna")
    assert out == "".join(text.lstrip(" ") + "\n" for text in (first, second, third))
    assert "forgotten." in err
    assert "unknown command /no" in err


def test_chat_shows_an_error_and_goes_on(reuse, folder, capsys, monkeypatch):
    out, err = chat(folder, monkeypatch, capsys, ["bad [INST]", "/system S", "good"], "--prompt-style", "llama2", "--stats")
    assert "error: message: special tag [INST] is not allowed" in err
    assert "system text set." in err
    assert "6 new tokens" in err
    assert len(out.splitlines()) >= 1


def test_chat_keeps_its_system_text_when_another_is_refused_and_answers_a_last_line_that_would_go_on(reuse, folder, capsys, monkeypatch):
    lines = ["/system [INST]", "again\\"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", str(folder), "--max-new-tokens", "6", "--prompt-style", "llama2"]) == 0
    out, err = capsys.readouterr()
    assert err.count("error: system: special tag [INST] is not allowed") == 1
    assert "system text set" not in err
    assert out.endswith("\n")


def test_a_system_text_a_model_has_no_place_for_is_refused(reuse, folder, capsys):
    for words in (["chat", str(folder)], ["predict", str(folder), "x"]):
        assert main([*words, "--system", "Be brief."]) == 6
        assert "the prompt style completion has no place for a system text" in capsys.readouterr().err


def test_chat_refuses_a_line_that_is_no_text_and_goes_on(reuse, folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"he\xffllo\nimport os\n"), encoding="utf-8"))
    assert main(["chat", str(folder), "--max-new-tokens", "3"]) == 0
    out, err = capsys.readouterr()
    assert "lone surrogate" in err
    assert len(out.splitlines()) >= 1


def test_chat_with_a_model_that_only_continues_says_so(reuse, folder, capsys, monkeypatch):
    assert "every line stands alone" in chat(folder, monkeypatch, capsys, ["a"])[1]


def test_ctrl_c_stops_the_answer_and_a_second_one_the_program():
    before = signal.getsignal(signal.SIGINT)
    with stopping_on_interrupt() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
