import doctest
from pathlib import Path


def test_the_examples_of_the_tokenizer_page_give_what_it_says():
    page = Path(__file__).parents[3] / "docs" / "tokenizer.md"
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted >= 10
    assert result.failed == 0
