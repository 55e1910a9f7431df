"""Promises that hold for any text and any ids. Oracle: sentencepiece itself, and the text put in."""

import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.text.auto import AutoTokenizer, shipped_tokenizer
from mindformers_codellama.text.special import AddedToken
from mindformers_codellama.text.stream import TokenStream

MODEL = str(shipped_tokenizer() / "tokenizer.model")
TINY = AutoTokenizer.from_pretrained("codellama_tiny")
ADDED = (AddedToken("<step>"), AddedToken("def", special=False))
VARIANTS = [
    AutoTokenizer.from_pretrained("codellama_tiny", legacy=legacy, added_tokens=added) for legacy in (True, False) for added in ((), ADDED)
]
AWKWARD = [
    "\t",
    "\r\n",
    "\n",
    " ",
    "  ",
    "\U0001f600",
    "\U0001f468\u200d\U0001f469",
    "e\u0301",
    "\u200b",
    "\ufeff",
    "\u00a0",
    "\u6f22",
    "\x00",
    "<s>",
    "</s>",
    "<0x0A>",
    "\ufffd",
]
# SentencePiece writes a space as U+2581, so that one character cannot come back as itself
TEXTS = st.lists(
    st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=6)),
    max_size=8,
).map("".join)
LEADS = [3 + byte for byte in (0x41, 0x80, 0xC3, 0xA9, 0xE6, 0xBC, 0xA2, 0xF0, 0x9F, 0x98, 0x80, 0xC0, 0xED, 0xFF)]


def ids_of(tokenizer, size=8):
    special = [
        *tokenizer.added_tokens.by_id,
        tokenizer.prefix_id,
        tokenizer.eot_id,
        *(tokenizer.convert_tokens_to_ids(p) for p in ("\u2581", "\u2581\u2581")),
    ]
    one = st.one_of(st.sampled_from(LEADS), st.sampled_from(special), st.integers(3, 258), st.integers(0, tokenizer.vocab_size - 1))
    return st.lists(one, max_size=size)


@given(TEXTS)
def test_meta_encoding_gives_the_text_back_exactly(text):
    assert TINY.decode_pieces(TINY.encode_pieces(text, bos=False, eos=False)) == text


@given(TEXTS)
def test_infilling_encoding_gives_the_text_back_exactly(text):
    assert TINY.decode_infilling(TINY.encode_infilling(text)) == text


@given(TEXTS)
def test_meta_encoding_is_sentencepiece_and_never_a_special_token(text):
    processor = sentencepiece.SentencePieceProcessor(model_file=MODEL)
    ids = TINY.encode_pieces(text, bos=True, eos=True)
    assert ids == [1, *processor.encode(text), 2]
    assert not {0, 1, 2, TINY.prefix_id, TINY.suffix_id, TINY.middle_id, TINY.eot_id} & set(ids[1:-1])


@given(TEXTS)
def test_text_after_bos_comes_back_when_no_special_token_is_in_it(text):
    if not any(token in text for token in TINY.all_special_tokens) and text:
        shown = TINY.decode(TINY.encode(text))
        processor = sentencepiece.SentencePieceProcessor(model_file=MODEL)
        # transformers' rule: a space after <s> unless the text's own first token carries it
        gap = "" if processor.encode(text, out_type=str)[0].startswith("\u2581") else " "
        assert shown == f"<s>{gap}{text}"


@given(st.data())
def test_encoding_what_was_decoded_is_stable(data):
    ids = data.draw(ids_of(TINY))
    text = TINY.decode_pieces(ids)
    again = TINY.encode_pieces(text, bos=False, eos=False)
    assert TINY.decode_pieces(again) == text.replace("\u2581", " ")


@settings(max_examples=150)
@given(st.data())
def test_a_stream_of_any_ids_gives_the_full_decode(data):
    for tokenizer in VARIANTS:
        ids = data.draw(ids_of(tokenizer))
        for skip in (True, False):
            stream = TokenStream(tokenizer, skip_special_tokens=skip)
            for _ in range(2):  # a stream is fresh again after its end
                assert "".join([*map(stream.put, ids), stream.end()]) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(TEXTS)
def test_no_replacement_character_appears_in_a_stream_of_whole_text(text):
    stream = TokenStream(TINY)
    pieces = [stream.put(token) for token in TINY.encode_pieces(text, bos=True, eos=True)]
    assert stream.end() == ""
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(["left", "right"]))
def test_padding_adds_only_masked_padding(texts, side):
    tokenizer = AutoTokenizer.from_pretrained("codellama_tiny", padding_side=side)
    batch = tokenizer(texts, padding=True, return_tensors="np")
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    for text, ids, mask in zip(texts, batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[mask == 1].tolist() == tokenizer.encode(text)
        assert set(ids[mask == 0].tolist()) <= {tokenizer.pad_token_id}
        assert (sorted(mask.tolist(), reverse=side == "right")) == mask.tolist()
