"""Incremental reading of a JSON array against the standard parser, and its answers to damaged files."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.data import json_array
from mindformers_codellama.data.json_array import read_array

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\{}[],\n\u00e9 ', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='k"]}', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(values, max_size=5), st.sampled_from([None, 1]), st.integers(1, 40))
def test_elements_equal_the_standard_parsers_for_any_chunk_size(items, indent, chunk):
    text = json.dumps(items, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "CHUNK", chunk)
        assert [element.value for element in read_array(io.StringIO(text))] == items


def test_lines_are_those_of_the_elements():
    text = '[\n {"a": 1},\n\n {"b":\n 2}, {"c": 3}\n]'
    assert [element.line for element in read_array(io.StringIO(text))] == [2, 4, 5]


@pytest.mark.parametrize(
    ("text", "good", "problem"),
    [
        ('[{"a": 1}, {"b": 2}', 1, "the file ends before the array is closed"),
        ('[{"a": 1}, {"b": "x', 1, "the file ends before the array is closed"),
        ('[{"a": 1},]', 1, "not JSON: Expecting value"),
        ('[{"a": 1}] tail', 1, "text after the end"),
        ('[{"a": 1 "b": 2}, {"c": 3}]', 1, "not JSON: Expecting ',' delimiter"),
        ("[" + "[" * 100_000 + "]" * 100_000 + "]", 0, "nested too deeply"),
    ],
)
def test_damage_is_one_element_with_its_reason_and_the_others_are_read(text, good, problem):
    elements = list(read_array(io.StringIO(text)))
    assert sum(not element.problem for element in elements) == good
    assert [problem in element.problem for element in elements if element.problem] == [True]
