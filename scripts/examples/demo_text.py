"""What the demo model is trained on: files of Python's library and of its tests, and lines made to be continued.

    python scripts/examples/demo_text.py library          paths of the library's files, without those that are held out
    python scripts/examples/demo_text.py all              these and the library's tests and tools
    python scripts/examples/demo_text.py held-out         paths of the files nothing is trained on
    python scripts/examples/demo_text.py chains           text: lines in which every word has one successor

Files that are mostly tables (character maps, numbers, escapes) are left out: a quarter of the tokens, and little to learn.

Why chains: behind `<MID>` the words to go on from are those before `<SUF>`, far away. In real code the next word is known so
rarely that a small model learned nothing of it from its first 36 million ids; where every word has one successor it
learns to look there within 500 steps, and then does so in real code too.
"""

from __future__ import annotations

import argparse
import random
import re
import sysconfig
from pathlib import Path

from mindformers_codellama.data.stdlib_source import collect_stdlib

LARGEST_FILE = 300_000
SMALLEST_FILE = 300
CHARACTER_MAPS = "encodings"
CHAIN = (
    *("yield", "list", "None", "filter", "range", "int", "import", "is", "and", "not", "if", "map", "os", "return", "set", "from"),
    *("zip", "except", "open", "str", "class", "in", "sys", "or", "dict", "while", "self", "value", "try", "for", "else", "name"),
    *("path", "True", "elif", "file", "len", "def", "as", "False", "raise", "with", "print", "lambda"),
)
"""Words, each the successor of the one before it, the first of the last."""


def is_code(path: Path) -> bool:
    """Text a person wrote: few digits and escapes, mostly letters."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if len(text) < SMALLEST_FILE:
        return False
    digits, letters = len(re.findall(r"\d", text)), len(re.findall(r"[A-Za-z]", text))
    escapes = 4 * text.count("\\x") + 6 * text.count("\\u")
    return digits < 0.10 * len(text) and letters > 0.45 * len(text) and escapes < 0.05 * len(text)


def tests_and_tools() -> list[Path]:
    """Files of the library's folder that `collect_stdlib` leaves out, but nothing that was installed there."""
    library = collect_stdlib()
    known = {*library.train, *library.held_out}
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        installed = {"site-packages", "dist-packages", "__pycache__"} & {*path.parts}
        if not installed and path not in known and path.stat().st_size <= LARGEST_FILE:
            found.append(path)
    return found


def repeats_held_out(path: Path, lines: frozenset[str]) -> bool:
    """More than a third of its longer lines stand in a held-out file: a copy of one, or its twin."""
    own = [line for line in long_lines(path) if line in lines]
    return len(own) > len(long_lines(path)) / 3


def long_lines(path: Path) -> list[str]:
    """Lines of more than 30 characters, without their indentation."""
    return [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if len(line.strip()) > 30]


def chains(count: int, seed: int) -> str:
    """Lines of 4 to 12 words, every one but the first the successor of the one before it."""
    chance = random.Random(seed)  # noqa: S311  # text, no secret
    lines = []
    for _ in range(count):
        start, length = chance.randrange(len(CHAIN)), chance.randrange(4, 13)
        lines.append(" ".join(CHAIN[(start + index) % len(CHAIN)] for index in range(length)))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["library", "all", "held-out", "chains"])
    parser.add_argument("--lines", type=int, default=90_000, help="of the chains (default 90000)")
    parser.add_argument("--seed", type=int, default=3, help="of the chains (default 3)")
    args = parser.parse_args()
    library = collect_stdlib()
    if args.what == "chains":
        print(chains(args.lines, args.seed), end="")
        return
    if args.what == "held-out":
        print(*(path for path in library.held_out if CHARACTER_MAPS not in path.parts), sep="\n")
        return
    files = list(library.train)
    if args.what == "all":
        kept = frozenset(line for path in library.held_out for line in long_lines(path))
        files += [path for path in tests_and_tools() if not repeats_held_out(path, kept)]
    print(*(path for path in files if CHARACTER_MAPS not in path.parts and is_code(path)), sep="\n")


if __name__ == "__main__":
    main()
