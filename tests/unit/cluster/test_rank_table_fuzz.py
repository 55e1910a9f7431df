"""Whatever is in the file: a table, or an error a person can act on; never a fault of this program."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_table_samples import MODELARTS_GROUPS, MODELARTS_SERVERS, ONE_SERVER, TEMPLATE_2

from mindformers_codellama.cluster.json_source import JsonSource
from mindformers_codellama.cluster.rank_table_check import findings, host_findings
from mindformers_codellama.cluster.rank_table_merge import merge_rank_tables
from mindformers_codellama.cluster.rank_table_read import read_rank_table
from mindformers_codellama.errors import CodeLlamaError

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 10**12),
        st.floats(allow_nan=False),
        st.text(max_size=5),
        st.sampled_from(["0", "1", "7", "999999999", "completed", "initializing", "1.2", "10.0.0.9", "xx.xx"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["device", "rank_id", "x"]), inner, max_size=3)),
    max_leaves=5,
)


def places(value, path=()):
    """Every key path of a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@settings(deadline=None, max_examples=600)
@given(text=st.sampled_from([ONE_SERVER, MODELARTS_GROUPS, MODELARTS_SERVERS, TEMPLATE_2]), data=st.data())
def test_any_value_anywhere(tmp_path_factory, text, data):
    document = json.loads(text)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(places(document))))
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        if not path:
            document = data.draw(VALUES)
        elif data.draw(st.booleans()) and isinstance(inner, dict):
            del inner[path[-1]]
        else:
            inner[path[-1]] = copy.deepcopy(data.draw(VALUES))
    judge(tmp_path_factory.getbasetemp() / "any.json", json.dumps(document, indent=1))


@settings(deadline=None, max_examples=300)
@given(text=st.sampled_from([ONE_SERVER, MODELARTS_GROUPS]), start=st.integers(0, 2000), stop=st.integers(0, 2000), put=st.text(max_size=4))
def test_any_cut_or_overwritten_text(tmp_path_factory, text, start, stop, put):
    judge(tmp_path_factory.getbasetemp() / "cut.json", text[:start] + put + text[stop:])


def judge(path, text):
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        table = read_rank_table(path)
        errors, warnings = findings(table)
        host_findings(table, lambda _name: None)
        for error in (*errors, *warnings):
            assert str(error).startswith(str(path)), error
        assert read_rank_table(path) == table
        merge_rank_tables([table])
    except CodeLlamaError as error:
        assert str(path) in str(error)  # noqa: PT017  any of the calls may raise it


@pytest.mark.parametrize("text", [ONE_SERVER, MODELARTS_GROUPS, TEMPLATE_2])
def test_the_line_of_every_key_is_the_line_it_is_written_on(text):
    source = JsonSource("t.json", text)
    lines = text.splitlines()
    for key, number in source.lines.items():
        name = key.rpartition(".")[2].partition("[")[0]
        assert not name or key.endswith("]") or f'"{name}"' in lines[number - 1], (key, number)


def test_lines_of_names_with_brackets_colons_and_escapes():
    text = '{\n "a": [1,\n  {"b,:{}": "x\\"]",\n   "c": null}],\n "d": {}\n}'
    lines = JsonSource("t.json", text).lines
    assert {key: lines[key] for key in ("a", "a[0]", "a[1]", "a[1].b,:{}", "a[1].c", "d")} == {
        "a": 2,
        "a[0]": 2,
        "a[1]": 3,
        "a[1].b,:{}": 3,
        "a[1].c": 4,
        "d": 5,
    }
