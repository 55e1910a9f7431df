"""docs/scaling.md says what the planner says now."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from plan_case import plan, shipped

from mindformers_codellama.planner.devices import GIB

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling_benchmark", ROOT / "benchmarks" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_tables_of_the_page_are_current(scaling):
    _, inside, _ = scaling.between(PAGE, "tables")
    assert inside.strip() == scaling.tables().strip(), "run `python benchmarks/scaling.py --tables --write`"


def test_marks_are_found_once(scaling):
    for name in ("tables", "memory", "measured"):
        assert PAGE.count(f"<!-- {name}: begin -->") == PAGE.count(f"<!-- {name}: end -->") == 1
        before, inside, after = scaling.between(PAGE, name)
        assert before + inside + after == PAGE


def test_a_part_of_the_page_is_replaced_alone(scaling, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n")
    scaling.put(page, "x", "new")
    assert page.read_text() == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"


def test_numbers_the_page_gives_for_34b_are_the_planners():
    predict, finetune = shipped("predict_codellama_34b_910b"), shipped("finetune_codellama_34b_910b")
    one, two = (plan(predict, ranks).chosen for ranks in (1, 2))
    eight, sixteen, thirty_two = (plan(finetune, ranks).chosen for ranks in (8, 16, 32))
    assert f"weights in float16 are {one.stages[0].parameters / GIB:.1f} GiB" in PAGE
    assert f"predict, 2 | yes, {two.peak / GIB:.0f} GiB" in PAGE
    assert f"finetune, 16 | yes, {sixteen.peak / GIB:.0f} GiB ({sixteen.layout})" in PAGE
    assert f"finetune, 32 | yes, {thirty_two.peak / GIB:.1f} GiB ({thirty_two.layout}" in PAGE
    assert not eight.fits
    smaller = re.search(r"with (\S+) or (\S+) less than half", PAGE).groups()
    for text in smaller:
        assert plan(finetune, 32, asked=text).chosen.peak < thirty_two.peak / 2, text
