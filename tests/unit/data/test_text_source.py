"""Which text files are read, and in what blocks."""

import json

import pytest

from mindformers_codellama.data import text_source
from mindformers_codellama.data.stdlib_source import collect_stdlib
from mindformers_codellama.data.text_source import find_text_files, read_blocks
from mindformers_codellama.errors import DataError, EnvironmentFault


def test_the_standard_library_has_code_and_no_tests_and_splits_without_overlap():
    found = collect_stdlib(held_out=0.1)
    names = [path.as_posix() for path in found.train + found.held_out]
    assert any(name.endswith("/argparse.py") for name in names)
    assert not [name for name in names if "/test/" in name or "/idlelib/" in name or "/site-packages/" in name]
    assert not set(found.train) & set(found.held_out)
    assert 0.03 < len(found.held_out) / len(names) < 0.2
    assert found == collect_stdlib(held_out=0.1)


def test_a_larger_held_out_part_contains_the_smaller_and_a_byte_limit_holds():
    small, large = collect_stdlib(held_out=0.05), collect_stdlib(held_out=0.2)
    assert set(small.held_out) < set(large.held_out)
    limited = collect_stdlib(max_bytes=400_000).train
    assert 200_000 < sum(path.stat().st_size for path in limited) <= 400_000
    assert len({path.parent for path in limited}) > 3, "a limit takes from many packages, not the first by name"


def test_a_bad_fraction_and_a_machine_without_sources_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"held-out: got 1, must be at least 0 and below 1"):
        collect_stdlib(held_out=1)
    with pytest.raises(EnvironmentFault, match="holds no Python source files"):
        collect_stdlib(root=tmp_path)


def test_files_folders_and_globs_are_found_sorted_and_once(tmp_path):
    for name in ("b.py", "a.py", "sub/c.py", ".git/x.py", "sub/__pycache__/y.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    found = find_text_files([str(tmp_path), str(tmp_path / "a.py"), str(tmp_path / "**" / "*.py")])
    assert [path.relative_to(tmp_path).as_posix() for path in found[:3]] == ["a.py", "b.py", "sub/c.py"]
    assert len(set(found)) == len(found)
    with pytest.raises(DataError, match="no file found"):
        find_text_files([str(tmp_path / "*.txt")])


def test_a_long_document_comes_in_blocks_that_join_to_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(text_source, "BLOCK", 50)
    text = "".join(f"line {i} of the file\n" for i in range(40))
    (tmp_path / "a.py").write_text(text)
    blocks = list(read_blocks(tmp_path / "a.py"))
    assert "".join(block.text for block in blocks) == text
    assert len(blocks) > 5
    assert [block.first for block in blocks] == [True] + [False] * (len(blocks) - 1)
    assert [block.last for block in blocks] == [False] * (len(blocks) - 1) + [True]
    assert all(block.text.startswith("\n") for block in blocks[1:])


def test_records_with_text_are_documents_and_others_have_a_reason(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"text": "one"}, {"content": "two"}, {"other": 1}])))
    blocks = list(read_blocks(path))
    assert [block.text for block in blocks] == ["one", "two", ""]
    assert "no text under the key" in blocks[2].problem
    assert blocks[2].where == f"{path}:3: record 2"


def test_a_binary_file_has_a_reason(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\x80\x81")
    assert [block.problem for block in read_blocks(tmp_path / "a.bin")] == ["is not UTF-8 text."]
