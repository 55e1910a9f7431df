"""Train a SentencePiece tokenizer with Llama's settings; the shipped tiny one was made by `train_tiny_tokenizer`.

The settings are those stored in Llama 2's own `tokenizer.model` (its `trainer_spec` was read): BPE, byte fallback, digits
one by one, identity normalization, whitespace kept, `<unk>` 0, `<s>` 1, `</s>` 2, no padding piece.

The four infilling pieces come last, as in Code Llama. They are CONTROL pieces: text that spells `<PRE>` is then never turned
into the id by `encode`, whatever was learned, and decoding an id gives no text. USER_DEFINED would match inside text (a user's
source file could open an infilling request), and UNUSED or NORMAL can be reached by merges.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import struct
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from mindformers_codellama.errors import CodeLlamaError, TokenizerError
from mindformers_codellama.text.model_file import PIECES, TRAINER_SPEC
from mindformers_codellama.text.prompts import alpaca_prompt
from mindformers_codellama.text.wire import field_bytes, field_varint, fields
from mindformers_codellama.text.write import refuse_existing, write_bytes

INFILLING_PIECES = ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>")
CONTROL_PIECE = 3
"""`ModelProto.SentencePiece.Type.CONTROL` of sentencepiece_model.proto."""
WHITE_SMILING_FACE = "\u263a"
"""Must be one piece: Meta's infilling encoder puts it before the text and cuts it off again."""
_FIXED_PIECES = 260
"""256 bytes, three special pieces, and the character above."""
TINY_VOCAB_SIZE = 2048
TINY_CORPUS_BYTES = 6_000_000
CONVERSATION_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""System text of the vicuna v1.1 template (FastChat) that the instruction rows open with; short for the tiny model too."""
INSTRUCTION_REPEATS = 30
"""Times the instruction texts enter the tiny corpus, so that prompts, too, become few pieces."""
LONGEST_SPACE_RUN = 16
SPACE_RUN_REPEATS = 3000
"""Lines per length of leading space in the tiny corpus, so that every run of 1 to 16 spaces is one piece, as in Llama 2."""
SKIPPED_PACKAGES = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings", "pydoc_data", "ensurepip"}
)

logger = logging.getLogger(__name__)


def train_tokenizer(lines: Iterable[str], output: Path, *, vocab_size: int, infilling: bool = True, force: bool = False) -> Path:
    """Train on `lines` and write `output`, a `tokenizer.model` of exactly `vocab_size` pieces.

    One thread and no sampling: the same lines give the same bytes with the same version of sentencepiece.

    Args:
        lines: text without line ends; lines over 4192 bytes are left out by the trainer.
        output: file to write; an existing one is refused unless `force`.
        vocab_size: all pieces, with the 3 special, the 256 byte and the infilling ones.
        infilling: append the four infilling pieces as the last ids.
        force: replace an existing file.

    Raises:
        TokenizerError: the text is too small or too poor for that many pieces, or the file cannot be written.
    """
    refuse_existing(output, force=force)  # before the work, not after it
    extra = INFILLING_PIECES if infilling else ()
    if vocab_size < _FIXED_PIECES + len(extra):
        raise _too_few(output, vocab_size, _FIXED_PIECES + len(extra))
    model = io.BytesIO()
    found: list[CodeLlamaError] = []

    def remembered() -> Iterator[str]:
        """Sentencepiece wraps what its input raises; the error itself is for the person."""
        try:
            yield from lines
        except CodeLlamaError as error:
            found.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=remembered(),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size - len(extra),
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            allow_whitespace_only_pieces=True,
            character_coverage=0.99995,
            required_chars=WHITE_SMILING_FACE,
            max_sentence_length=4192,
            max_sentencepiece_length=16,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise found[0] if found else _explained(output, vocab_size, len(extra), str(error)) from error
    write_bytes(output, append_control_pieces(model.getvalue(), extra, vocab_size), force=force)
    logger.info("wrote %s with %d pieces", output, vocab_size)
    return output


def _explained(output: Path, vocab_size: int, extra: int, text: str) -> TokenizerError:
    """Sentencepiece's reason in our words; its numbers do not count the `extra` pieces we append."""
    most, least = re.search(r"to a value <= (\d+)", text), re.search(r"required_chars\. -?\d+ vs (\d+)", text)
    if "sentences_.empty()" in text:
        return TokenizerError(
            output, "there is no text to learn from.", fix="give files that hold some; lines over 4192 bytes are left out."
        )
    if most:
        limit = int(most[1]) + extra
        return TokenizerError(
            output, f"the text gives at most {limit} pieces, not {vocab_size}.", fix=f"--vocab-size {limit}, or more text."
        )
    if least:
        return _too_few(output, vocab_size, int(least[1]) + extra)
    return TokenizerError(output, f"sentencepiece could not train {vocab_size} pieces: {text.strip()}", fix="try another --vocab-size.")


def _too_few(output: Path, vocab_size: int, least: int) -> TokenizerError:
    problem = f"{vocab_size} pieces are too few: bytes, characters and special pieces alone are {least}."
    return TokenizerError(output, problem, fix=f"--vocab-size {least} or more.")


def append_control_pieces(model: bytes, pieces: Iterable[str], vocab_size: int) -> bytes:
    """Add CONTROL pieces behind the last id and set `trainer_spec.vocab_size`.

    Fields of a protobuf message are simply concatenated: repeated ones append, embedded messages merge. So new fields are put
    behind the last of their kind, and no protobuf package is needed. They do not go to the file's end, where a cut file
    would lose them unseen. Field numbers: sentencepiece_model.proto (SentencePiece.piece 1, score 2, type 3;
    TrainerSpec.vocab_size 4).
    """
    behind = {field.number: field.end for field in fields(model)}
    bodies = [field_bytes(1, piece.encode()) + b"\x15" + struct.pack("<f", 0.0) + field_varint(3, CONTROL_PIECE) for piece in pieces]
    new_pieces = b"".join(field_bytes(PIECES, body) for body in bodies)
    new_spec = field_bytes(TRAINER_SPEC, field_varint(4, vocab_size))
    first, second = behind[PIECES], behind[TRAINER_SPEC]
    assert first < second, "sentencepiece writes the pieces first"
    return model[:first] + new_pieces + model[first:second] + new_spec + model[second:]


def standard_library_files() -> list[Path]:
    """Python's own source files in a fixed order, without tests, tables and installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files: list[Path] = []
    for folder, names, file_names in os.walk(root):
        names[:] = sorted(name for name in names if name not in SKIPPED_PACKAGES and not name.startswith(("config-", "__")))
        files.extend(Path(folder, name) for name in sorted(file_names) if name.endswith(".py"))
    return files


def tiny_corpus(instructions: Path, *, code_bytes: int = TINY_CORPUS_BYTES) -> Iterator[str]:
    """Lines of the standard library up to `code_bytes`, then runs of spaces, then the instructions in their Alpaca prompts."""
    used = 0
    for path in standard_library_files():
        text = path.read_text(encoding="utf-8", errors="ignore")
        used += len(text)
        if used > code_bytes:
            break
        yield from text.splitlines()
    for spaces in range(1, LONGEST_SPACE_RUN):  # the trainer puts one more before each line
        yield from [" " * spaces] * SPACE_RUN_REPEATS
    records = json.loads(instructions.read_text(encoding="utf-8"))
    for _ in range(INSTRUCTION_REPEATS):
        for record in records:
            text = f"{CONVERSATION_SYSTEM} USER: {alpaca_prompt(record['instruction'], record['input'])} ASSISTANT: {record['output']}"
            yield from text.splitlines()


def shipped_instructions() -> Path:
    """The project's own Alpaca file, package data of the data layer."""
    return Path(__file__).parents[1] / "data" / "assets" / "tiny_instructions.json"


def train_tiny_tokenizer(output: Path, *, force: bool = False) -> Path:
    """Make a tokenizer as the shipped one was made; equal bytes only on the same Python and sentencepiece versions."""
    return train_tokenizer(tiny_corpus(shipped_instructions()), output, vocab_size=TINY_VOCAB_SIZE, force=force)
