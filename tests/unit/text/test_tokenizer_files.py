import json
import random
import shutil

import pytest

from mindformers_codellama.errors import CodeLlamaError, TokenizerError
from mindformers_codellama.text.auto import AutoTokenizer, shipped_tokenizer
from mindformers_codellama.text.check import tokenizer_fits_model
from mindformers_codellama.text.special import AddedToken
from mindformers_codellama.text.tokenizer import LlamaTokenizer
from mindformers_codellama.text.wire import Field, field_varint, fields, varint
from mindformers_codellama.text.write import write_bytes

MODEL = shipped_tokenizer() / "tokenizer.model"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the tokenizer file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b'{"version": "1.0"}', r"is text \(JSON or a web page\).*give tokenizer.model, not tokenizer.json"),
        (b"<!DOCTYPE html>", "is text"),
        (bytes(range(256)), "is not a SentencePiece model or is damaged"),
        (b"PK\x03\x04 zip", "is not a SentencePiece model or is damaged"),
    ],
)
def test_a_foreign_file_is_refused_with_what_it_is(tmp_path, content, message):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        LlamaTokenizer(path)


def test_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(TokenizerError, match=r"nowhere.model: no such tokenizer file. Fix: give the SentencePiece tokenizer.model"):
        LlamaTokenizer(tmp_path / "nowhere.model")
    with pytest.raises(TokenizerError, match=r"tokenizer.model: no such tokenizer file"):
        LlamaTokenizer(tmp_path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    content, path = MODEL.read_bytes(), tmp_path / "tokenizer.model"
    cuts = random.Random(0).sample(range(1, len(content) - 5), 100)
    # also right between two pieces, which sentencepiece itself accepts
    between_pieces = [field.end for field in fields(content)][-30:-1]
    for cut in [*cuts, *between_pieces]:
        path.write_bytes(content[:cut])
        with pytest.raises(TokenizerError):
            LlamaTokenizer(path)


def test_a_file_with_flipped_bits_gives_an_error_of_ours_or_loads(tmp_path):
    content, path, generator = MODEL.read_bytes(), tmp_path / "tokenizer.model", random.Random(1)
    refused = 0
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(5):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            LlamaTokenizer(path).encode("def f(x):")
        except CodeLlamaError:
            refused += 1
    assert refused > 50


def test_the_wire_reader_finds_fields_and_refuses_what_is_cut():
    message = field_varint(4, 300) + field_varint(4, 1)
    assert varint(300) == b"\xac\x02"
    assert list(fields(message)) == [Field(4, 0, 3), Field(4, 3, 5)]
    with pytest.raises(ValueError, match="cut inside a number"):
        list(fields(message[:2]))


def test_every_way_to_name_the_tokenizer_gives_the_same(tmp_path):
    folder = tmp_path / "my model"
    folder.mkdir()
    shutil.copy(MODEL, folder / "tokenizer.model")
    (folder / "codellama.yaml").write_text("model: {}\n")
    shutil.copy(MODEL, tmp_path / "other.model")
    for name in ("codellama_tiny", shipped_tokenizer(), str(folder), folder / "tokenizer.model", tmp_path / "other.model"):
        assert AutoTokenizer.from_pretrained(name).encode("x") == [1, 664]


def test_a_registry_name_without_a_file_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TokenizerError, match=r"codellama_34b: .*put it at checkpoint_download.codellama.tokenizer.model"):
        AutoTokenizer.from_pretrained("codellama_34b")
    place = tmp_path / "checkpoint_download" / "codellama"
    place.mkdir(parents=True)
    shutil.copy(MODEL, place)
    assert AutoTokenizer.from_pretrained("codellama_34b").vocab_size == 2048


def test_an_unknown_name_and_an_unknown_option_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"nobody: is neither a directory, nor a tokenizer.model file, nor a model name"):
        AutoTokenizer.from_pretrained("nobody")
    with pytest.raises(TokenizerError, match=r"unknown option use_fast. Fix: known: .*legacy"):
        AutoTokenizer.from_pretrained("codellama_tiny", use_fast=True)
    with pytest.raises(TokenizerError, match="no such tokenizer file"):
        AutoTokenizer.from_pretrained(tmp_path)


def write_config(folder, **values):
    shutil.copy(MODEL, folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def test_tokenizer_config_is_honoured_and_options_win(tmp_path):
    folder = write_config(
        tmp_path,
        tokenizer_class="LlamaTokenizer",
        add_bos_token=False,
        add_eos_token=True,
        legacy=False,
        pad_token=None,
        bos_token={"__type": "AddedToken", "content": "<s>", "lstrip": False},
        added_tokens_decoder={"0": {"content": "<unk>", "special": True}, "2050": {"content": "<tool>", "special": False}},
        additional_special_tokens=["<step>"],
        chat_template="ignored",
    )
    (folder / "added_tokens.json").write_text('{"<old>": 2060}')
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.add_bos_token, tokenizer.add_eos_token, tokenizer.legacy, tokenizer.pad_token) == (False, True, False, "<unk>")
    assert tokenizer.encode("<step><tool><old>") == [2061, 2050, 2060, 2]
    assert tokenizer.all_special_tokens == ["<s>", "</s>", "<unk>", "<step>"]
    assert AutoTokenizer.from_pretrained(folder, add_eos_token=False).encode("<step>") == [2061]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list, not an object"),
        ('{"tokenizer_class": "GPT2Tokenizer"}', r"tokenizer_class: got 'GPT2Tokenizer', allowed: LlamaTokenizer"),
        ('{"bos_token": 3}', "bos_token: must be a string, got 3"),
        ('{"added_tokens_decoder": {"5": {"content": "x", "single_word": true}}}', r"added_tokens_decoder.5: single_word is not supported"),
        ('{"added_tokens_decoder": {"five": {"content": "x"}}}', r"added_tokens_decoder.five: .*must be"),
        ('{"added_tokens_decoder": [1]}', r"added_tokens_decoder: must be an object"),
        ('{"legacy": "yes"}', r"legacy: must be true or false, got 'yes'"),
    ],
)
def test_a_damaged_tokenizer_config_is_refused(tmp_path, text, message):
    shutil.copy(MODEL, tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(TokenizerError, match=message):
        AutoTokenizer.from_pretrained(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_refused_naming_both(tiny):
    tokenizer_fits_model(tiny, 2048, "vocab_size")
    tokenizer_fits_model(tiny, 2064, "vocab_size")  # spare rows, as 32016 for 32000 pieces
    with pytest.raises(
        TokenizerError,
        match=r"^model.vocab_size: .*tokenizer.model has 2048 pieces, the model's vocabulary is 2000: tokenizer and model disagree",
    ):
        tokenizer_fits_model(tiny, 2000, "model.vocab_size")
    stepping = LlamaTokenizer(MODEL, added_tokens=[AddedToken("<step>", 2060)])
    tokenizer_fits_model(stepping, 2061, "vocab_size")
    with pytest.raises(TokenizerError, match=r"'<step>' has id 2060, the model's vocabulary is 2060: tokenizer and model disagree"):
        tokenizer_fits_model(stepping, 2060, "vocab_size")


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TokenizerError, match="cannot be written: No space left on device"):
        write_bytes(tmp_path / "tokenizer.model", b"x")
    assert list(tmp_path.iterdir()) == []


def test_transformers_reads_what_we_save_and_gives_the_same_ids(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = LlamaTokenizer(MODEL, legacy=False, added_tokens=[AddedToken("<step>")])
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    # no leading spaces: transformers 5.23 is fast-only and drops one there, unlike its slow predecessor and sentencepiece
    for text in ("def f(x):\n    return x\n", "a\tb", "caf\u00e9 \U0001f600", "a <step>b</s>  c"):
        assert theirs.encode(text) == ours.encode(text), text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LlamaTokenizer(MODEL, padding_side="middle"), "padding_side: got 'middle', allowed: 'right', 'left'"),
        (lambda: LlamaTokenizer(MODEL, bos_token=3), "bos_token: must be a string, got 3"),
        (lambda: AutoTokenizer.from_pretrained(None), "must be a name or a path, got None"),
        (lambda: AutoTokenizer.from_pretrained(""), "must be a name or a path, got ''"),
        (lambda: LlamaTokenizer(MODEL)("a b", truncation=True, max_length=-1), "max_length: got -1, must be at least 0"),
        (lambda: LlamaTokenizer(MODEL).decode("abc"), "ids: must be whole numbers, got 'abc'"),
        (lambda: LlamaTokenizer(MODEL).decode([1.5]), "ids: must be whole numbers, got 1.5"),
        (lambda: LlamaTokenizer(MODEL).decode(None), "ids: must be whole numbers, got None"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, message):
    with pytest.raises(TokenizerError, match=message):
        call()
