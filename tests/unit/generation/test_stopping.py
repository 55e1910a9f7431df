from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoders import RecurrentDecoder, ScriptedDecoder

import mindformers_codellama.text
from mindformers_codellama.config.generation import GenerationConfig
from mindformers_codellama.errors import GenerationError
from mindformers_codellama.generation.loop import Listeners, generate, generate_rows
from mindformers_codellama.generation.stopping import held_back
from mindformers_codellama.generation.stream import TextIteratorStreamer, TextStreamer
from mindformers_codellama.text.tokenizer import LlamaTokenizer

TOKENIZER = LlamaTokenizer(Path(mindformers_codellama.text.__file__).parent / "assets" / "codellama_tiny" / "tokenizer.model")
VOCAB = TOKENIZER.vocab_size
PROMPT = TOKENIZER.encode("def f():")


def continuation(text: str) -> list[int]:
    """Ids of a text that stands behind another one, without the space that begins a text."""
    return TOKENIZER.encode_infilling(text)


def answer(text: str, *stops: str, ids: list[int] | None = None, **options):
    """(result, pieces heard, ids heard) of a model that answers with `text`."""
    heard, streamed = [], []

    class Listening:
        def put(self, value):
            streamed.extend(value.tolist())

        def end(self):
            pass

    decoder = ScriptedDecoder(VOCAB, [continuation(text) if ids is None else ids])
    config = GenerationConfig(**{"max_new_tokens": 200, "stop_strings": stops, **options})
    listeners = Listeners(streamer=Listening(), on_text=lambda row, piece: heard.append(piece))
    result = generate_rows(decoder, [PROMPT], config, tokenizer=TOKENIZER, listeners=listeners)
    assert streamed == result.ids[0].tolist()
    return result, heard


def test_text_and_pieces_are_the_whole_answer_without_the_end_token():
    result, heard = answer("\n    return 1\n")
    assert result.texts == ["\n    return 1\n"]
    assert "".join(heard) == "\n    return 1\n"
    assert len(heard) > 3
    assert result.finish_reasons == ["eos"]
    assert result.ids[0][-1] == 2


def test_a_stop_string_over_several_tokens_ends_and_is_never_heard():
    text = "\n    return 1\n\ndef g():\n    pass"
    assert len(continuation("\ndef g")) > 1
    result, heard = answer(text, "\ndef g")
    assert result.texts == ["\n    return 1\n"]
    assert "".join(heard) == "\n    return 1\n"
    assert result.finish_reasons == ["stop"]
    assert TOKENIZER.decode(result.ids[0], skip_special_tokens=True) == "def f():\n    return 1\n"


def test_a_stop_string_inside_one_token_keeps_the_text_before_it_and_drops_the_token():
    token = next(
        i for i in range(300, VOCAB - 4) if TOKENIZER.convert_ids_to_tokens(i).isalpha() and len(TOKENIZER.convert_ids_to_tokens(i)) >= 4
    )
    piece = TOKENIZER.convert_ids_to_tokens(token)
    result, heard = answer("", piece[2], ids=[*continuation("\n"), token, *continuation(" rest")])
    expected = ("\n" + piece).split(piece[2])[0]
    assert result.texts == [expected]
    assert "".join(heard) == expected
    assert result.new_ids(0).tolist() == continuation("\n")


def test_the_earliest_of_several_stop_strings_ends():
    result, _ = answer("one two three", "three", "two")
    assert result.texts == ["one "]


def test_a_stop_string_in_the_prompt_does_not_end():
    result, _ = answer(" pass", "def")
    assert result.texts == [" pass"]


def test_a_beginning_of_a_stop_string_is_held_back_and_given_out_when_it_is_none():
    result, heard = answer("a ## b", "###")
    assert "".join(heard) == "a ## b" == result.texts[0]
    assert all("##" not in piece or piece != "##" for piece in heard)


def test_a_held_back_end_is_given_out_when_the_row_ends():
    assert answer("a ##", "###")[0].texts == ["a ##"]
    result, heard = answer("a ## b c d", "###", max_new_tokens=2)
    assert "".join(heard) == result.texts[0]
    assert result.finish_reasons == ["length"]


def test_half_a_character_before_a_stop_string_is_cut_with_it():
    smile = [TOKENIZER.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "\U0001f642".encode()]
    result, heard = answer("", "\U0001f642", ids=[*continuation("ok"), *smile, *continuation("more")])
    assert result.texts == ["ok"]
    assert heard == ["ok"]
    assert result.new_ids(0).tolist() == continuation("ok")


def test_a_character_that_never_becomes_whole_is_one_replacement_at_the_end():
    first = TOKENIZER.convert_tokens_to_ids("<0xF0>")
    result, heard = answer("", ids=[*continuation("ok"), first])
    assert result.texts == ["ok\ufffd"]
    assert "".join(heard) == "ok\ufffd"


def test_rows_of_a_batch_stop_at_their_own_stop_strings():
    decoder = ScriptedDecoder(VOCAB, [continuation("a\n\nb"), continuation("a b c d e f")])
    heard = {0: "", 1: ""}

    def on_text(row, piece):
        heard[row] += piece

    config = GenerationConfig(max_new_tokens=60, stop_strings=("\n\n", " e"))
    result = generate_rows(decoder, [PROMPT, PROMPT[:2]], config, tokenizer=TOKENIZER, listeners=Listeners(on_text=on_text))
    assert result.texts == ["a", "a b c d"]
    assert list(heard.values()) == result.texts


TEXTS = st.text(alphabet="ab#\n \u00e9\U0001f642", max_size=20)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.lists(st.text(alphabet="ab#\n \u00e9\U0001f642", min_size=1, max_size=4), max_size=3))
def test_what_is_heard_ends_where_the_first_stop_string_to_be_complete_begins(text, stops):
    result, heard = answer(text, *stops)
    whole = TOKENIZER.decode(PROMPT + continuation(text), skip_special_tokens=True)[len("def f():") :]
    expected = result.texts[0]
    assert "".join(heard) == expected
    assert whole.startswith(expected)
    assert not any(stop in expected for stop in stops)
    if result.finish_reasons == ["stop"]:
        assert any(whole.startswith(stop, len(expected)) for stop in stops)
    else:
        assert expected == whole
    # The tokens kept never say more than the text.
    assert ("def f():" + expected).startswith(TOKENIZER.decode(result.ids[0], skip_special_tokens=True))


@pytest.mark.parametrize(
    ("text", "stops", "size"), [("ab#", ("##",), 1), ("ab", ("##",), 0), ("\n\nde", ("\n\ndef", "e!"), 4), ("abc", (), 0)]
)
def test_held_back_is_the_longest_beginning_of_a_stop_string_at_the_end(text, stops, size):
    assert held_back(text, stops) == size


def test_stop_strings_without_a_tokenizer_and_with_beams_are_refused():
    with pytest.raises(GenerationError, match="only be watched with a tokenizer"):
        generate(RecurrentDecoder(), [[1]], GenerationConfig(stop_strings=("a",)))
    with pytest.raises(GenerationError, match="beam search ends at end tokens only"):
        generate(RecurrentDecoder(), [[1]], GenerationConfig(stop_strings=("a",), num_beams=2), tokenizer=TOKENIZER)


def stream_to(streamer, text: str = "\n    return '\U0001f642'"):
    generate(ScriptedDecoder(VOCAB, [continuation(text)]), [PROMPT], GenerationConfig(max_new_tokens=60), streamer=streamer)


@pytest.mark.parametrize("skip_prompt", [False, True])
def test_text_streamer_writes_prompt_and_answer_in_whole_characters(skip_prompt):
    pieces: list[str] = []
    streamer = TextStreamer(TOKENIZER, skip_prompt, write=pieces.append)
    for _ in range(2):  # usable again after `end`
        pieces.clear()
        stream_to(streamer)
        assert "".join(pieces) == ("" if skip_prompt else "def f():") + "\n    return '\U0001f642'\n"
        assert "\ufffd" not in "".join(pieces)
        assert len(pieces) > 4


def test_text_streamer_writes_to_standard_output_by_default(capsys):
    stream_to(TextStreamer(TOKENIZER), " pass")
    assert capsys.readouterr().out == "def f(): pass\n"


def test_text_streamer_refuses_a_batch():
    with pytest.raises(GenerationError, match="writes one row"):
        TextStreamer(TOKENIZER).put([[1], [2]])


def test_iterator_streamer_gives_the_pieces_and_ends():
    streamer = TextIteratorStreamer(TOKENIZER, skip_prompt=True, timeout=5)
    stream_to(streamer)
    assert "".join(streamer) == "\n    return '\U0001f642'"


def test_ids_of_a_batch_are_int32_arrays_of_their_own_lengths():
    ids = generate(ScriptedDecoder(VOCAB, [[5], [5, 6]]), [[1], [1]], GenerationConfig())
    assert [row.dtype for row in ids] == [np.int32, np.int32]
    assert [len(row) for row in ids] == [3, 4]
