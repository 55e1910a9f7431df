import pytest

from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.stream import TokenStream, whole_characters


def pieces_of(tokenizer, ids, **options):
    stream = TokenStream(tokenizer, **options)
    return [*map(stream.put, ids), stream.end()]


def byte_ids(data: bytes) -> list[int]:
    return [3 + value for value in data]


def test_a_character_of_four_bytes_appears_with_its_last_byte(tiny):
    assert pieces_of(tiny, byte_ids("\U0001f600".encode())) == ["", "", "", "\U0001f600", ""]


def test_bytes_that_never_become_a_character_are_replaced_when_that_is_certain(tiny):
    assert pieces_of(tiny, byte_ids(b"\xe6\xbc")) == ["", "", "\ufffd\ufffd"]
    assert pieces_of(tiny, byte_ids(b"\xe6A")) == ["", "\ufffdA", ""]
    assert pieces_of(tiny, byte_ids(b"\xff")) == ["\ufffd", ""]


def test_an_answer_after_its_prompt_keeps_its_leading_space(tiny):
    ids = tiny.encode("return a + b")
    for cut in range(1, len(ids)):
        stream = TokenStream(tiny)
        prompt = "".join(map(stream.put, ids[:cut]))
        answer = "".join(map(stream.put, ids[cut:])) + stream.end()
        assert prompt + answer == "return a + b"


def test_visible_special_tokens_wait_until_the_spaces_are_known(tiny):
    hello = tiny.encode_pieces("Hello", bos=True, eos=True)
    pieces = pieces_of(tiny, hello, skip_special_tokens=False)
    assert "".join(pieces) == "<s> Hello</s>"
    assert pieces[0] == "<s>"
    assert pieces[-2] == " Hello</s>"


def test_an_id_outside_the_vocabulary_is_refused(tiny):
    with pytest.raises(TokenizerError, match=r"token id 2048 is not one of its 2048 pieces"):
        TokenStream(tiny).put(2048)


@pytest.mark.parametrize(
    "data", [b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\x80", b"\xf5A", b"\xe6\xe6\xbc\xa2", b"a\xc3\xa9\xc3"]
)
def test_invalid_utf8_is_cut_as_sentencepiece_cuts_it(tiny, data):
    ids = byte_ids(data)
    text, used = whole_characters(data)
    assert text + "\ufffd" * (len(data) - used) == tiny.decode_pieces(ids)
