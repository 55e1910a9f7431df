"""README.md and README_CN.md say the same: same commands, same tables, same sections, links that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README_CN.md").read_text(encoding="utf-8")


def code_blocks(text: str) -> list[str]:
    """Fenced blocks, each line without its trailing comment (comments are translated)."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return ["\n".join(re.sub(r"\s{2,}#.*$|\s+# .*$|^# .*$", "", line).rstrip() for line in block.splitlines()) for block in blocks]


def table_shapes(text: str) -> list[tuple[int, int]]:
    """(rows, columns) of every table."""
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [(len(table.splitlines()), table.splitlines()[0].count("|") - 1) for table in tables]


def numbers_in_tables(text: str) -> list[str]:
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [number for table in tables for number in re.findall(r"\d[\d.,]*\d|\d", table)]


def links(text: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)#]+)\)", text) if not target.startswith("http")]


def test_both_readmes_give_the_same_commands():
    assert code_blocks(ENGLISH)
    assert code_blocks(CHINESE) == code_blocks(ENGLISH)


def test_both_readmes_have_the_same_sections():
    def levels(text: str) -> list[str]:
        return re.findall(r"^(#+) ", text, flags=re.MULTILINE)

    assert levels(CHINESE) == levels(ENGLISH)


def test_both_readmes_have_the_same_tables_with_the_same_numbers():
    assert table_shapes(CHINESE) == table_shapes(ENGLISH)
    assert numbers_in_tables(CHINESE) == numbers_in_tables(ENGLISH)


@pytest.mark.parametrize("name", ["README.md", "README_CN.md"])
def test_every_link_of_a_readme_exists(name):
    missing = [target for target in links((ROOT / name).read_text(encoding="utf-8")) if not (ROOT / target).exists()]
    assert not missing


def test_every_path_of_the_annotated_tree_exists():
    tree = next(block for block in re.findall(r"^```text\n(.*?)^```$", ENGLISH, flags=re.MULTILINE | re.DOTALL) if "configs/" in block)
    stack: list[tuple[int, str]] = []
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        while stack and stack[-1][0] >= indent:
            stack.pop()
        names = re.split(r"\s{2,}", line.strip())[0].split()
        parent = "".join(name for _, name in stack)
        for name in names:
            assert (ROOT / (parent + name)).exists(), f"README tree names {parent + name}"
        if names[0].endswith("/"):
            stack.append((indent, names[0]))
