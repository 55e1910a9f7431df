"""`codellama train-tokenizer`: a SentencePiece tokenizer with Llama's settings from your own text."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

EXAMPLES = """examples:
  codellama train-tokenizer --output my/tokenizer.model                               as the shipped tiny one was made
  codellama train-tokenizer --input src/ notes.txt --vocab-size 8000 --output my/tokenizer.model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--output", type=Path, required=True, help="tokenizer.model to write")
    parser.add_argument(
        "--input", type=Path, nargs="+", help="text files, or directories whose *.py and *.txt are read; default: the tiny corpus"
    )
    parser.add_argument("--vocab-size", type=int, default=2048, help="pieces, special ones included (default %(default)s)")
    parser.add_argument("--no-infilling", action="store_true", help="leave out the four infilling pieces of Code Llama")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    """Train and say what was written."""
    from mindformers_codellama.text.tokenizer import LlamaTokenizer
    from mindformers_codellama.text.train_tokenizer import shipped_instructions, tiny_corpus, train_tokenizer

    lines = read_lines(arguments.input) if arguments.input else tiny_corpus(shipped_instructions())
    train_tokenizer(lines, arguments.output, vocab_size=arguments.vocab_size, infilling=not arguments.no_infilling, force=arguments.force)
    tokenizer = LlamaTokenizer(arguments.output)
    print(f"wrote {tokenizer.path}: {tokenizer.vocab_size} pieces, sha256 {tokenizer.sha256}")
    return 0


def read_lines(paths: list[Path]) -> Iterator[str]:
    """Lines of the files, with a progress bar on a terminal.

    Raises:
        TokenizerError: a path that does not exist, or a file that is not UTF-8.
    """
    from tqdm import tqdm

    from mindformers_codellama.errors import TokenizerError

    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise TokenizerError(path, "no such file or directory.", fix="check --input.")
        inside = sorted(p for p in path.rglob("*") if p.suffix in (".py", ".txt")) if path.is_dir() else [path]
        files.extend(inside)
    for file in tqdm(files, desc="reading", unit="file", disable=None):
        try:
            with file.open(encoding="utf-8") as source:
                yield from (line.rstrip("\r\n") for line in source)
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(file, f"cannot be read as UTF-8 text: {error}.", fix="leave the file out or convert it.") from error
