"""Tokenizer files for the infilling tests: Llama 2's with Code Llama's pieces, and variants of a file's bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import sentencepiece

from mindformers_codellama.text.model_file import PIECES
from mindformers_codellama.text.tokenizer import LlamaTokenizer
from mindformers_codellama.text.train_tokenizer import append_control_pieces
from mindformers_codellama.text.wire import field_bytes, field_varint, fields

MARKS = tuple("\u2581" + mark for mark in ("<PRE>", "<SUF>", "<MID>", "<EOT>"))
NORMALIZER_SPEC = 3
"""Field of ModelProto in sentencepiece_model.proto; its field 3 is `add_dummy_prefix`."""
USER_DEFINED = 4
"""`ModelProto.SentencePiece.Type`: matched in text as a whole."""


def code_llama_file(llama2: bytes) -> bytes:
    """Llama 2's 32000 pieces and 16 more, the infilling marks at Code Llama's ids 32007 to 32010, `<step>` at 32015."""
    names = [f"<extra_{number}>" for number in range(16)]
    names[7:11] = MARKS
    names[15] = "<step>"
    return append_control_pieces(llama2, names, 32016)


def without_implicit_space(model: bytes) -> bytes:
    """The file with `add_dummy_prefix` false, as that of Code Llama 70B Instruct."""
    at = {field.number: field.end for field in fields(model)}[NORMALIZER_SPEC]
    return model[:at] + field_bytes(NORMALIZER_SPEC, field_varint(3, 0)) + model[at:]


def with_marks_matched_in_text(model: bytes) -> bytes:
    """A file whose infilling pieces sentencepiece finds in text."""
    out = b""
    for field in fields(model):
        body = model[field.start : field.end]
        if field.number == PIECES and any(mark.encode() in body for mark in MARKS):
            mark = next(mark for mark in MARKS if mark.encode() in body)
            body = field_bytes(PIECES, field_bytes(1, mark.encode()) + b"\x15" + struct.pack("<f", 0.0) + field_varint(3, USER_DEFINED))
        out += body
    return out


def opened(folder: Path, model: bytes) -> LlamaTokenizer:
    """A tokenizer of these bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    return LlamaTokenizer(folder / "tokenizer.model")


class MetaRules:
    """Meta's code written down again over sentencepiece alone (codellama e81b597 llama/tokenizer.py, llama/generation.py)."""

    def __init__(self, path: Path) -> None:
        self.sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.pre, self.suf, self.mid, self.eot = (self.sp.piece_to_id(mark) for mark in MARKS)

    def infilling(self, text: str) -> list[int]:
        """`encode_infilling`; the mark is two pieces, the implicit space and the character."""
        assert len(self.sp.encode("\u263a")) == 2
        return self.sp.encode("\u263a" + text)[2:]

    def prompt(self, pre: str, suf: str, suffix_first: bool) -> list[int]:
        """`infilling_prompt_tokens`, on text whose line ends are LF."""
        if suffix_first:
            return [1, self.pre, self.suf, *self.infilling(suf), self.mid, *self.sp.encode(pre)]
        return [1, self.pre, *self.sp.encode(pre), self.suf, *self.infilling(suf), self.mid]
