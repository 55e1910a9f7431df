"""Gears of dynamic graphs; the expected choices are worked out by hand from the lists in the files."""

import pytest
from lite_case import SEQ, signature

from mindformers_codellama.errors import CodeLlamaError
from mindformers_codellama.mindir.lite_gears import read_gears
from mindformers_codellama.mindir.lite_ini import read_lite_ini
from mindformers_codellama.mindir.protocol import FULL, INC

MINDFORMERS = "batch_index:-1;batch_valid_length:-1;tokens:-1,1;zactivate_len:-1"


def gears(folder, shape=MINDFORMERS, dims="1,1,1,32;8,8,8,32;1,1,1,128;", kind="1", role=INC, rows=None):
    lines = {"ge.inputShape": shape, "ge.dynamicDims": dims, "ge.dynamicNodeType": kind}
    text = "[ge_graph_options]\n" + "".join(f"{key}={value}\n" for key, value in lines.items() if value)
    (folder / "inc.ini").write_text(text)
    return read_gears(read_lite_ini(folder / "inc.ini"), signature(role, batch=8, dynamic=True, rows=rows), batch_size=8, seq_length=SEQ)


def test_the_smallest_gear_that_holds_a_call(tmp_path):
    found = gears(tmp_path)
    assert found.sizes == ((1, 32), (1, 128), (8, 32))
    assert [found.fit(1, 1), found.fit(1, 32), found.fit(1, 33), found.fit(2, 32)] == [(1, 32), (1, 32), (1, 128), (8, 32)]
    for rows, positions in ((9, 1), (2, 33), (1, 129)):
        with pytest.raises(CodeLlamaError, match="no gear holds"):
            found.fit(rows, positions)


def test_fixed_rows_are_those_of_the_export(tmp_path):
    found = gears(tmp_path, "batch_index:8;batch_valid_length:8;input_ids:8,1;zactivate_len:-1", "32;64")
    assert found.sizes == ((8, 32), (8, 64))


def test_what_ge_is_told_has_the_graphs_own_names_and_sizes(tmp_path):
    assert gears(tmp_path).options["ge.inputShape"] == MINDFORMERS.replace("tokens", "input_ids")
    assert gears(tmp_path).options["ge.dynamicDims"] == "1,1,1,32;8,8,8,32;1,1,1,128"
    found = gears(tmp_path, MINDFORMERS.replace("tokens:-1,1", "tokens:-1,-1"), "8,8,8,1,32;8,8,8,1,64", rows=8)
    assert found.options == {
        "ge.inputShape": "batch_index:8;batch_valid_length:8;input_ids:8,1;zactivate_len:-1",
        "ge.dynamicDims": "32;64",
    }
    assert found.sizes == ((8, 32), (8, 64))
    with pytest.raises(CodeLlamaError, match="gives batch_index the size 1; these graphs were exported with 8"):
        gears(tmp_path, rows=8)


def test_gears_of_prompts(tmp_path):
    shape = "batch_index:1;batch_valid_length:1;tokens:1,-1;zactivate_len:-1"
    assert gears(tmp_path, shape, "16,16;64,64", role=FULL).sizes == ((8, 16), (8, 64))


def test_none_is_no_gears(tmp_path):
    assert gears(tmp_path, "", "", "") is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dims": ""}, "needs ge.dynamicDims beside it"),
        ({"kind": "0"}, "write ge.dynamicNodeType=1"),
        ({"shape": MINDFORMERS.replace("tokens", "tokes")}, "'tokes' is no input of this graph"),
        ({"shape": MINDFORMERS.replace("tokens:-1,1", "tokens:-1,2")}, "does not fit the input input_ids int32 (any, 1)"),
        ({"shape": "tokens:-1,1"}, "write each input once"),
        ({"dims": "1,1,32;8,8,32"}, "1,1,32 has 3 numbers; ge.inputShape has 4 times -1"),
        ({"dims": "1,1,1,32"}, "has 1 groups; GE takes 2 to 100"),
        ({"dims": "1,1,2,32;8,8,8,32"}, "gives the inputs 1 and 2 rows"),
        (
            {"shape": "batch_index:8;batch_valid_length:-1;tokens:8,-1;zactivate_len:-1", "dims": "8,2,32;8,1,32"},
            "gives input_ids the size 2",
        ),
        ({"dims": "1,1,1,0;8,8,8,32"}, "below 1"),
        ({"dims": "1,1,1,256;8,8,8,32"}, "asks for 256 positions; the export has 128"),
        ({"dims": "1,1,1,a;8,8,8,32"}, "is no list of whole numbers"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, options, said):
    with pytest.raises(CodeLlamaError) as caught:
        gears(tmp_path, **options)
    assert said in str(caught.value)
    assert "inc.ini:" in str(caught.value)
