"""Open `tokenizer.model`: every way the file can be missing, foreign or damaged becomes one clear error."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import sentencepiece

from mindformers_codellama.errors import TokenizerError
from mindformers_codellama.text.wire import field_bytes, field_varint, fields

MODEL_FILE = "tokenizer.model"
PIECES, TRAINER_SPEC, NORMALIZER_SPEC = 1, 2, 3
"""Field numbers of ModelProto in sentencepiece_model.proto."""
ADD_DUMMY_PREFIX = 3
"""Field number in NormalizerSpec."""
GIT_LFS_POINTER = b"version https://git-lfs"


class ModelFile(NamedTuple):
    """A checked SentencePiece model in memory."""

    path: Path
    content: bytes
    sha256: str
    """Of the file's bytes, in hex; the identity of the tokenizer in manifests."""


def read_model_file(path: str | Path) -> ModelFile:
    """Read and check the file; `sentencepiece` itself accepts a file cut between two pieces and then encodes wrongly.

    Raises:
        TokenizerError: no such file, a directory without one, not a SentencePiece model, or one cut short.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        raise TokenizerError(path, "no such tokenizer file.", fix="give the SentencePiece tokenizer.model that belongs to the weights.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerError(path, f"cannot be read: {error.strerror or error}.") from error
    check_model(path, content)
    return ModelFile(path, content, hashlib.sha256(content).hexdigest())


def check_model(path: Path, content: bytes) -> None:
    """Refuse what is not a whole SentencePiece model."""
    again = "download or copy the file again and compare its size."
    if not content:
        raise TokenizerError(path, "the tokenizer file is empty.", fix=again)
    if content.startswith(GIT_LFS_POINTER):
        raise TokenizerError(path, "is a Git LFS pointer, not the tokenizer.", fix="run `git lfs pull` where it came from.")
    if content.lstrip()[:1] in (b"{", b"[", b"<"):
        raise TokenizerError(
            path, "is text (JSON or a web page), not a SentencePiece model.", fix="give tokenizer.model, not tokenizer.json."
        )
    try:
        present = {field.number for field in fields(content)}
    except ValueError as error:
        raise TokenizerError(path, f"is not a SentencePiece model or is damaged ({error}).", fix=again) from error
    for number, name in ((PIECES, "pieces"), (TRAINER_SPEC, "trainer_spec"), (NORMALIZER_SPEC, "normalizer_spec")):
        if number not in present:
            raise TokenizerError(path, f"is damaged or cut short: its {name} are missing.", fix=again)


def open_processor(model: ModelFile, *, dummy_prefix: bool = True) -> sentencepiece.SentencePieceProcessor:
    """The encoder of a model file.

    Args:
        model: from `read_model_file`.
        dummy_prefix: False turns off the space SentencePiece puts before every text (HF's `legacy=False`). The appended
            `normalizer_spec` merges with the one in the file, as protobuf defines.
    """
    content = model.content
    if not dummy_prefix:
        content += field_bytes(NORMALIZER_SPEC, field_varint(ADD_DUMMY_PREFIX, 0))
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError) as error:
        raise TokenizerError(model.path, f"sentencepiece refuses the file: {error}", fix="download or copy it again.") from error
