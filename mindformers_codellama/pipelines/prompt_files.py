"""Prompts from the words of a command line: texts, files of prompts, folders of such files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mindformers_codellama.errors import CodeLlamaError, DataError, raise_all

SUFFIXES = (".txt", ".jsonl")
PROMPT_KEYS = ("prompt", "instruction", "text")


def read_prompts(entries: Sequence[str]) -> list[str]:
    """Prompts of `--predict-data`: each entry is a folder, a file, or a text.

    A folder stands for its `.txt` and `.jsonl` files in order of name. A text file holds a prompt per line, as in
    MindFormers; a `.jsonl` file a JSON string or an object with `prompt`, so prompts may have several lines. A single
    word that ends like such a file is one.

    Raises:
        DataError: missing, unreadable or empty files, lines that are no prompt; all at once.
    """
    prompts: list[str] = []
    findings: list[CodeLlamaError] = []
    for entry in entries:
        try:
            files = _files(entry)
        except DataError as error:
            findings.append(error)
            continue
        for path in files:
            try:
                prompts += _read_file(path)
            except DataError as error:
                findings.append(error)
        prompts += [] if files else [entry]
    raise_all(findings)
    return prompts


def read_stdin() -> str:
    """All of standard input, without the line end that closes it.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        text = sys.stdin.read()
        text.encode()  # bytes that are no text come as lone surrogates where the locale is C
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise DataError("standard input", f"is not UTF-8 text (near character {error.start}).") from error
    return text.removesuffix("\n")


def names_something(entry: str) -> bool:
    """Whether a file or folder of this name is there; a text too long or too odd to be a name is not."""
    try:
        return Path(entry).exists()
    except (OSError, ValueError):
        return False


def decode_newlines(texts: Sequence[str]) -> list[str]:
    r"""A single text with literal `\n` and `\t` turned into new lines and tabs, as shells pass them; files are left alone."""
    if len(texts) == 1 and not names_something(texts[0]):
        return [texts[0].replace("\\n", "\n").replace("\\t", "\t")]
    return list(texts)


def _files(entry: str) -> list[Path]:
    """Files an entry stands for; none when it is a text."""
    if not names_something(entry):
        if entry.endswith(SUFFIXES) and len(entry.split()) == 1:
            raise DataError(entry, "does not exist.", fix="give a file of prompts; a text that ends so goes into a file.")
        return []
    path = Path(entry)
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not found:
        raise DataError(path, "holds no .txt or .jsonl file.", fix="give a file of prompts, one per line.")
    return found


def _read_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(path, f"is not UTF-8 text (byte {error.start}).") from error
    prompts = [_prompt(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise DataError(path, "holds no prompt.", fix="write one prompt per line.")
    return prompts


def _prompt(line: str, path: Path, number: int) -> str:
    if path.suffix != ".jsonl":
        return line
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}", f"is not JSON: {error}.") from error
    if isinstance(value, dict):
        value = next((value[key] for key in PROMPT_KEYS if key in value), None)
    if not isinstance(value, str):
        raise DataError(f"{path}:{number}", f"holds no prompt: need a JSON string or an object with {' or '.join(PROMPT_KEYS)}.")
    return value
