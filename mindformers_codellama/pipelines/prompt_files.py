"""Prompts from the words of a command line: texts, files of prompts, folders of such files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mindformers_codellama.errors import CodeLlamaError, DataError, raise_all

SUFFIXES = (".txt", ".jsonl")
PROMPT_KEYS = ("prompt", "instruction", "text")


def read_prompts(entries: Sequence[str]) -> list[str]:
    """Prompts of `--predict-data`: each entry is a folder, a file, or a text.

    A folder stands for its `.txt` and `.jsonl` files in order of name. A text file holds a prompt per line, as in
    MindFormers; a `.jsonl` file a JSON string or an object with `prompt`, so prompts may have several lines.

    Raises:
        DataError: unreadable or empty files, lines that are no prompt; all at once.
    """
    prompts: list[str] = []
    findings: list[CodeLlamaError] = []
    for entry in entries:
        for path in _files(entry):
            if isinstance(path, str):
                prompts.append(path)
                continue
            try:
                prompts += _read_file(path)
            except DataError as error:
                findings.append(error)
    raise_all(findings)
    return prompts


def read_stdin() -> str:
    """All of standard input, without the line end that closes it."""
    return sys.stdin.read().removesuffix("\n")


def _files(entry: str) -> Iterable[Path | str]:
    try:
        path = Path(entry)
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
            if not found:
                raise DataError(path, "holds no .txt or .jsonl file.", fix="give a file of prompts, one per line.")
            return found
        return [path] if path.is_file() else [entry]
    except (OSError, ValueError):  # a text too long or too odd to be a path
        return [entry]


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
