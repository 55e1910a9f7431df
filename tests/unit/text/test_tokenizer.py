import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.auto import AutoTokenizer, shipped_tokenizer
from mindformers_codellama.text.special import AddedToken
from mindformers_codellama.text.tokenizer import LlamaTokenizer

MODEL = shipped_tokenizer() / "tokenizer.model"


def test_the_shipped_tokenizer_has_llamas_ids_and_infilling_pieces_last(tiny):
    assert tiny.vocab_size == len(tiny) == 2048
    assert (tiny.unk_token_id, tiny.bos_token_id, tiny.eos_token_id, tiny.pad_token_id) == (0, 1, 2, 0)
    assert (tiny.prefix_id, tiny.suffix_id, tiny.middle_id, tiny.eot_id) == (2044, 2045, 2046, 2047)
    assert [tiny.convert_ids_to_tokens(3 + value) for value in (0, 10, 255)] == ["<0x00>", "<0x0A>", "<0xFF>"]
    assert tiny.encode_pieces("2024", bos=False, eos=False) == tiny.convert_tokens_to_ids(["\u2581", "2", "0", "2", "4"])


def test_text_never_becomes_an_infilling_id(tiny):
    text = "\u2581<PRE> <PRE> <SUF>x<MID>\u2581<EOT> <EOT>"
    for ids in (tiny.encode(text), tiny.encode_pieces(text, bos=True, eos=True), tiny.encode_infilling(text)):
        assert not set(range(2044, 2048)) & set(ids)


def test_special_tokens_in_text_become_ids_for_hugging_face_and_stay_text_for_meta(tiny):
    assert tiny.encode("a</s>b") == [1, *tiny.encode("a", False), 2, *tiny.encode("b", False)]
    assert 2 not in tiny.encode_pieces("a</s>b", bos=True, eos=False)


def test_infilling_ids_are_none_where_the_model_has_no_such_pieces(shared_model):
    tokenizer = LlamaTokenizer(shared_model)
    assert (tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id, tokenizer.eot_id) == (None,) * 4
    assert tokenizer.vocab_size == 32000


def test_infilling_parts_equal_the_published_vector_of_code_llama(shared_model):
    # llama.cpp issue 3503; ids below 32000 are the same in Llama 2's file
    tokenizer = LlamaTokenizer(shared_model)
    prefix = 'def remove_non_ascii(s: str) -> str:\n    """ '
    expected = [822, 3349, 29918, 5464, 29918, 294, 18869, 29898, 29879, 29901, 851, 29897, 1599, 851, 29901, 13, 1678, 9995, 29871]
    assert tokenizer.encode_pieces(prefix, bos=True, eos=False) == [1, *expected]
    assert tokenizer.encode_infilling("\n    return result\n") == [13, 1678, 736, 1121, 13]
    assert tokenizer.encode_pieces("\n    return result\n", bos=False, eos=False) != [13, 1678, 736, 1121, 13]


def test_infilling_codec_equals_metas_formula(shared_model):
    tokenizer = LlamaTokenizer(shared_model)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(shared_model))
    for text in ("x", "  x", "\n\n", "return", "\u263a", "\U0001f600 a", "</s>"):
        ids = processor.encode("\u263a" + text)[2:]
        assert tokenizer.encode_infilling(text) == ids
        assert tokenizer.decode_infilling(ids) == processor.decode([processor.piece_to_id("\u263a"), *ids])[1:] == text


def test_decode_takes_nested_lists_arrays_and_one_id(tiny):
    rows = tiny(["a b", "c"], padding=True, return_tensors="np")["input_ids"]
    expected = ["a b", "c"]
    assert tiny.decode(rows, skip_special_tokens=True) == expected
    assert tiny.decode(rows.tolist(), skip_special_tokens=True) == expected
    assert tiny.decode([row for row in rows], skip_special_tokens=True) == expected
    assert tiny.batch_decode(rows, skip_special_tokens=True) == expected
    assert tiny.decode(rows[0], skip_special_tokens=True) == "a b"
    assert tiny.decode(np.int32(2)) == tiny.decode(2) == "</s>"
    assert tiny.decode([]) == ""


def test_tokens_and_ids_convert_both_ways(tiny):
    vocabulary = tiny.get_vocab()
    assert len(vocabulary) == 2048
    assert tiny.convert_ids_to_tokens(range(2048)) == sorted(vocabulary, key=vocabulary.get)
    assert tiny.convert_tokens_to_ids("no such piece") == tiny.unk_token_id
    assert tiny.convert_ids_to_tokens([1, 2, 300], skip_special_tokens=True) == [tiny.convert_ids_to_tokens(300)]
    assert tiny.convert_tokens_to_ids(tiny.tokenize("x </s>")) == tiny.encode("x </s>", add_special_tokens=False)


@pytest.mark.parametrize("index", [2048, -1, 10**9])
def test_an_id_outside_the_vocabulary_names_the_file_and_its_size(tiny, index):
    for call in (tiny.decode, tiny.decode_pieces, tiny.convert_ids_to_tokens):
        with pytest.raises(TokenizerError, match=rf"tokenizer.model: token id {index} is not one of its 2048 pieces"):
            call([5, index])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"return_tensors": "np"}, r"return_tensors: rows have 2 to 4 ids; an array needs one length. Fix: add padding=True"),
        ({"padding": "most"}, r"padding: got 'most', allowed: False, True, 'longest'"),
        ({"padding": "max_length"}, r'padding: padding="max_length" needs a length'),
        ({"padding": True, "return_tensors": "pt"}, r"return_tensors: got 'pt', allowed: 'np', 'ms', None"),
    ],
)
def test_a_wrong_batch_request_is_refused(tiny, arguments, message):
    with pytest.raises(TokenizerError, match=message):
        tiny(["a", "a b c"], **arguments)


def test_padding_needs_a_padding_token_and_a_known_side():
    with pytest.raises(TokenizerError, match="no padding token"):
        LlamaTokenizer(MODEL, pad_token=None)(["a", "a b"], padding=True)
    with pytest.raises(TokenizerError, match="padding_side: got 'middle', allowed: 'right', 'left'"):
        LlamaTokenizer(MODEL, padding_side="middle")(["a", "a b"], padding=True)


def test_truncation_keeps_bos_and_eos_and_the_length_asked_for():
    tokenizer = LlamaTokenizer(MODEL, add_eos_token=True)
    full = tokenizer.encode("one two three four")
    for length in range(2, len(full) + 3):
        ids = tokenizer("one two three four", truncation=True, max_length=length)["input_ids"]
        assert len(ids) == min(length, len(full))
        assert (ids[0], ids[-1]) == (1, 2)
        assert ids[:-1] == full[: len(ids) - 1]


@pytest.mark.parametrize(
    ("text", "message"), [(None, "must be a string, got NoneType"), (["a"], "got list"), ("ab\ud800", r"character 2 is a lone surrogate")]
)
def test_what_is_no_text_is_refused(tiny, tiny_new, text, message):
    for tokenizer in (tiny, tiny_new):
        for call in (tokenizer.encode, tokenizer.encode_infilling, lambda t, k=tokenizer: k.encode_pieces(t, bos=True, eos=True)):
            with pytest.raises(TokenizerError, match=message):
                call(text)


def test_a_mindspore_tensor_comes_out_and_goes_in(tiny):
    pytest.importorskip("mindspore")
    batch = tiny(["a", "a b"], padding=True, return_tensors="ms")
    assert str(batch["input_ids"].dtype) == "Int32"
    assert tiny.decode(batch["input_ids"], skip_special_tokens=True) == ["a", "a b"]


def test_the_text_layer_never_loads_mindspore_by_itself():
    code = (
        "import sys\n"
        "from mindformers_codellama.text import auto, check, prompts, stream, train_tokenizer\n"
        "tokenizer = auto.AutoTokenizer.from_pretrained('codellama_tiny')\n"
        "tokenizer.decode(tokenizer(['a', 'b c'], padding=True, return_tensors='np')['input_ids'])\n"
        "sys.exit('mindspore' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tokenizer_survives_pickle_and_copy(tiny):
    for twin in (pickle.loads(pickle.dumps(tiny)), copy.deepcopy(tiny)):
        assert twin.encode("x </s> y") == tiny.encode("x </s> y")
        assert twin.sha256 == tiny.sha256


def test_saved_and_loaded_again_it_encodes_and_decodes_the_same(tmp_path):
    tokenizer = LlamaTokenizer(
        MODEL, legacy=False, add_eos_token=True, pad_token="<pad>", padding_side="left", added_tokens=[AddedToken("<step>", 3000)]
    )
    tokenizer.save_pretrained(tmp_path / "out")
    again = LlamaTokenizer.from_pretrained(tmp_path / "out")
    text = "a <step> b</s>"
    assert again.encode(text) == tokenizer.encode(text)
    assert again(["a", text], padding=True) == tokenizer(["a", text], padding=True)
    assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert again.added_tokens.by_content == tokenizer.added_tokens.by_content
    assert again.sha256 == tokenizer.sha256
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tokenizer.model", "tokenizer_config.json"]
    with pytest.raises(TokenizerError, match="the file exists"):
        tokenizer.save_pretrained(tmp_path / "out")
    tokenizer.save_pretrained(tmp_path / "out", force=True)


def test_added_tokens_swallow_white_space_when_they_say_so():
    tokenizer = LlamaTokenizer(MODEL, added_tokens=[AddedToken("<a>", 3000, lstrip=True), AddedToken("<b>", 3001, rstrip=True)])
    x = tokenizer.encode("x", add_special_tokens=False)
    assert tokenizer.encode("x  <a>x", add_special_tokens=False) == [*x, 3000, *x]
    assert tokenizer.encode("x<b> \n x", add_special_tokens=False) == [*x, 3001, *x]


def test_the_longest_of_two_added_tokens_wins():
    tokenizer = AutoTokenizer.from_pretrained("codellama_tiny", added_tokens=(AddedToken("<st", 3000), AddedToken("<step>", 3001)))
    assert tokenizer.encode("<step><st", add_special_tokens=False) == [3001, 3000]
