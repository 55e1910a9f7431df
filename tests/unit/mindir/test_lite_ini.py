"""lite.ini: what the pages write is read, what MindSpore Lite would silently skip is refused."""

from pathlib import Path

import pytest

from mindformers_codellama.errors import CodeLlamaError
from mindformers_codellama.mindir.lite_ini import read_lite_ini, read_pair

PROJECT = Path(__file__).resolve().parents[3]
SEED = """[ascend_context]
plugin_custom_ops=All
provider=ge
rank_table_file={table}
[ge_session_options]
ge.exec.formatMode=1
ge.exec.precision_mode=must_keep_origin_dtype
"""


def write(folder, text, name="lite.ini"):
    (folder / name).write_text(text)
    return folder / name


def test_the_file_of_the_page_is_read_as_it_stands(tmp_path):
    table = write(tmp_path, "{}", "table.json")
    ini = read_lite_ini(write(tmp_path, SEED.format(table=table)))
    assert ini.rank_table == table
    assert ini.value("ge_session_options", "ge.exec.formatMode") == "1"
    assert ini.value("ascend_context", "nothing") == ""


def test_a_relative_rank_table_is_found_beside_the_file_too(tmp_path):
    table = write(tmp_path, "{}", "table.json")
    assert read_lite_ini(write(tmp_path, SEED.format(table="table.json"))).rank_table == table


@pytest.mark.parametrize("name", ["lite.ini", "lite_inc_dynamic.ini"])
def test_shipped_files_are_sound(name, caplog):
    read_lite_ini(PROJECT / "configs" / "codellama" / name)
    assert not caplog.records


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[ascend_contxt]\nprovider=ge", "did you mean ascend_context?"),
        ("[ascend_context]\nprovidr=ge", ":2: [ascend_context] providr: is not a key of [ascend_context]. Fix: did you mean provider?"),
        ("[ascend_context]\nprovider=trt", "only GE lets two graphs share"),
        ("[ascend_context]\nge.exec.formatMode=1", "write it into [ge_session_options]"),
        ("[ge_session_options]\nprovider=ge", "write it into [ascend_context]"),
        ("[ge_session_options]\nge.exec.formatmode=1", "did you mean ge.exec.formatMode?"),
        ("[ge_session_options]\nge.exec.precision_mode=must_keep_origin_dtyp", "did you mean must_keep_origin_dtype?"),
        ("[ge_session_options]\nge.exec.formatMode=", "has no value"),
        ("[ge_session_options]\nge.exec.formatMode", "is neither key=value nor a section"),
        ("provider=ge", "stands in no section"),
        ("[ascend_context]\n; provider=ge", "begin comments with #"),
        ("[ascend_context\nprovider=ge", "is no section"),
        ("[ascend_context]\nprovider=ge\nprovider=ge", "written twice; first in line 2"),
        ("[ascend_context]\nplugin_custom_ops=All,FFN", "stand alone"),
        ("[ascend_context]\nplugin_custom_ops=FlashAtention", "did you mean FlashAttention?"),
        ("[ascend_context]\nrank_table_file=RANK_TABLE_FILE", "stands for a path"),
        ("[ascend_context]\nrank_table_file=nowhere.json", "nowhere.json does not exist"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, line, said):
    with pytest.raises(CodeLlamaError) as caught:
        read_lite_ini(write(tmp_path, line))
    assert said in str(caught.value)
    assert str(tmp_path / "lite.ini") in str(caught.value)


def test_an_option_of_a_newer_cann_goes_through_with_a_warning(tmp_path, caplog):
    read_lite_ini(write(tmp_path, "[ge_graph_options]\nge.brandNewThing=1"))
    assert "ge.brandNewThing is not known here and goes to GE as it is" in caplog.text


def test_one_file_or_two(tmp_path):
    full, inc = write(tmp_path, SEED.replace("rank_table_file={table}\n", "")), write(tmp_path, "[ge_graph_options]\n", "inc.ini")
    assert [ini.path for ini in read_pair(str(full))] == [full, full]
    assert [ini.path for ini in read_pair(f"{full},{inc}")] == [full, inc]
    for given in (f"{full},{inc},{inc}", f"{full},"):
        with pytest.raises(CodeLlamaError, match=r"full\.ini,inc\.ini"):
            read_pair(given)


def test_two_files_agree_about_the_rank_table(tmp_path):
    table = write(tmp_path, "{}", "table.json")
    full, inc = write(tmp_path, SEED.format(table=table)), write(tmp_path, "[ascend_context]\n", "inc.ini")
    with pytest.raises(CodeLlamaError, match="same rank table"):
        read_pair(f"{full},{inc}")


@pytest.mark.parametrize("given", ["missing", "folder", "binary"])
def test_a_file_that_is_none(tmp_path, given):
    path = tmp_path / "lite.ini"
    if given == "folder":
        path.mkdir()
    elif given == "binary":
        path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(CodeLlamaError, match=r"lite\.ini: (cannot be read|is not text)"):
        read_lite_ini(path)
