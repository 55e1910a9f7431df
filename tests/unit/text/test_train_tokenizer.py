import hashlib

import pytest
import sentencepiece

from mindformers_codellama.cli.main import main
from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.auto import shipped_tokenizer
from mindformers_codellama.text.tokenizer import LlamaTokenizer
from mindformers_codellama.text.train_tokenizer import INFILLING_PIECES, standard_library_files, train_tiny_tokenizer, train_tokenizer

LINES = ["def add(a, b):", "    return a + b", "for name in names:", "    print(name, 2024)"] * 20


def test_the_same_lines_give_the_same_bytes_and_the_size_asked_for(tmp_path):
    first = train_tokenizer(LINES, tmp_path / "a.model", vocab_size=320)
    second = train_tokenizer(iter(LINES), tmp_path / "b.model", vocab_size=320)
    assert first.read_bytes() == second.read_bytes()
    tokenizer = LlamaTokenizer(first)
    assert tokenizer.vocab_size == 320
    assert tokenizer.convert_ids_to_tokens(range(316, 320)) == list(INFILLING_PIECES)
    assert LlamaTokenizer(train_tokenizer(LINES, tmp_path / "c.model", vocab_size=320, infilling=False)).prefix_id is None


def test_the_trained_model_has_llamas_settings(tmp_path):
    tokenizer = LlamaTokenizer(train_tokenizer(LINES, tmp_path / "a.model", vocab_size=320))
    assert "".join(tokenizer.tokenize("    return  a")) == "\u2581" * 5 + "return" + "\u2581" * 2 + "a"  # no space is dropped
    assert tokenizer.tokenize("Q")[-1] == "<0x51>"  # never seen, so a byte
    assert tokenizer.tokenize("2024")[-4:] == ["2", "0", "2", "4"]
    assert tokenizer.tokenize("\n")[-1] == "<0x0A>"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    assert [processor.is_unknown(0), *map(processor.is_control, (1, 2, 316, 319)), *map(processor.is_byte, (3, 258))] == [True] * 7
    assert processor.pad_id() == -1


def test_too_little_text_and_an_existing_file_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"a.model: the text gives at most (\d+) pieces, not 5000. Fix: --vocab-size \1, or") as caught:
        train_tokenizer(LINES, tmp_path / "a.model", vocab_size=5000)
    most = int(str(caught.value).split("at most ")[1].split()[0])
    with pytest.raises(TokenizerError, match=r"3 pieces are too few: bytes, characters and special pieces alone are 264"):
        train_tokenizer(LINES, tmp_path / "a.model", vocab_size=3)
    with pytest.raises(TokenizerError, match=r"265 pieces are too few: bytes, characters and special pieces alone are (\d+)") as caught:
        train_tokenizer(LINES, tmp_path / "a.model", vocab_size=265)
    least = int(str(caught.value).split("alone are ")[1].split(".")[0])
    with pytest.raises(TokenizerError, match=r"there is no text to learn from"):
        train_tokenizer([], tmp_path / "a.model", vocab_size=320)
    assert list(tmp_path.iterdir()) == []
    for size in (least, most):
        assert LlamaTokenizer(train_tokenizer(LINES, tmp_path / f"{size}.model", vocab_size=size)).vocab_size == size
    train_tokenizer(LINES, tmp_path / "a.model", vocab_size=320)
    with pytest.raises(TokenizerError, match="the file exists"):
        train_tokenizer(LINES, tmp_path / "a.model", vocab_size=320)


def test_the_corpus_is_python_s_own_source_without_installed_packages():
    files = standard_library_files()
    assert len(files) > 200
    assert not [path for path in files if {"site-packages", "test", "tests"} & set(path.parts)]
    assert files == standard_library_files()


def test_a_tokenizer_made_as_the_shipped_one_has_its_form(tmp_path):
    # equal bytes only on CPython 3.11.7 and sentencepiece 0.2.3, so the form is compared
    made, shipped = LlamaTokenizer(train_tiny_tokenizer(tmp_path / "a.model")), LlamaTokenizer(shipped_tokenizer())
    assert made.vocab_size == shipped.vocab_size
    assert made.convert_ids_to_tokens([*range(259), *range(2044, 2048)]) == shipped.convert_ids_to_tokens([*range(259), *range(2044, 2048)])
    common = set(made.get_vocab()) & set(shipped.get_vocab())
    assert len(common) > 1800
    for length in range(1, 17):
        assert "\u2581" * length in common


def test_the_shipped_file_is_the_one_its_readme_names():
    folder = shipped_tokenizer()
    sha256 = hashlib.sha256((folder / "tokenizer.model").read_bytes()).hexdigest()
    assert f"`{sha256}`" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_shipped_instructions_are_cheap_to_encode():
    tokenizer = LlamaTokenizer(shipped_tokenizer())
    text = "def add(a, b):\n    return a + b"
    assert len(tokenizer.encode(text)) <= len(text) // 2


def test_a_file_that_cannot_be_read_while_training_is_named(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("def add(a, b):\n" * 50)
    (tmp_path / "b.txt").write_bytes(b"caf\xe9\n")
    assert main(["train-tokenizer", "--input", str(tmp_path), "--output", str(tmp_path / "t.model"), "--vocab-size", "300"]) == 5
    assert capsys.readouterr().err.startswith(f"codellama: error: {tmp_path / 'b.txt'}: cannot be read as UTF-8 text")
    assert not (tmp_path / "t.model").exists()
