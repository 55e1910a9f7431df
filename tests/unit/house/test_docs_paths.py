"""Every file of this repository that a page names exists (docs/LOG.md tells of ones that are gone)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("[a-z]*.md"), *(ROOT / "benchmarks").glob("*.md")])
NAMED = re.compile(r"(?<![\w./-])(?:tests|docs|configs|tools|scripts|benchmarks|mindformers_codellama)/[\w./-]*[\w/]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_a_page_names_exists(page):
    missing = [name for name in NAMED.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_of_a_page_exists(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_pages_are_found():
    assert len(PAGES) >= 11
