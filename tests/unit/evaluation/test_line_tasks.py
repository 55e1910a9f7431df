"""Which lines are taken out of files, and how near an answer is."""

import functools
import re

import numpy as np
import pytest

from mindformers_codellama.data.stdlib_source import collect_stdlib
from mindformers_codellama.errors import DataError
from mindformers_codellama.evaluation.ask_middles import before_rest_of_line
from mindformers_codellama.evaluation.exactness import edit_distance, edit_similarity, nearness, nearness_report
from mindformers_codellama.evaluation.line_tasks import SourceFile, line_tasks, read_source_files

CODE = SourceFile("pack/add.py", "import os\n\n\ndef add(a, b):\n    # both\n    return a + b\n   \n")


def slow_distance(one, other):
    """The recursive definition."""

    @functools.cache
    def rest(a, b):
        if a == len(one) or b == len(other):
            return len(one) - a + len(other) - b
        if one[a] == other[b]:
            return rest(a + 1, b + 1)
        return 1 + min(rest(a + 1, b), rest(a, b + 1), rest(a + 1, b + 1))

    return rest(0, 0)


def test_every_line_with_text_can_be_taken_out_and_put_back():
    tasks = line_tasks([CODE], per_file=99).tasks
    assert list(tasks) == ["pack/add.py:1", "pack/add.py:4", "pack/add.py:5", "pack/add.py:6"]
    assert [task.line for task in tasks.values()] == ["import os", "def add(a, b):", "    # both", "    return a + b"]
    assert all(task.hole.filled(task.line) == CODE.text for task in tasks.values())
    assert tasks["pack/add.py:6"].hole.suffix == "\n   \n"


def test_more_lines_include_the_fewer_and_other_files_change_nothing():
    files = [SourceFile(f"{letter}.py", "".join(f"{letter}{number}\n" for number in range(40))) for letter in "ab"]
    few, many = (set(line_tasks(files, per_file=count).tasks) for count in (3, 9))
    assert (len(few), few < many) == (6, True)
    assert set(line_tasks(files[1:], per_file=3).tasks) == {name for name in few if name[0] == "b"}
    assert set(line_tasks(files, per_file=3, seed=1).tasks) != few


def test_the_chosen_lines_are_the_same_on_every_machine():
    file = SourceFile("a.py", "".join(f"line {number}\n" for number in range(1000)))
    assert [task.number for task in line_tasks([file], per_file=4).tasks.values()] == [236, 345, 647, 956]


def test_the_rest_of_a_line_begins_where_a_word_begins_or_ends_and_is_chosen_by_the_seed():
    text = "".join(f"    alpha_{number} = beta({number}, 'two words')  \n)\n" for number in range(60))
    file = SourceFile("a.py", text)
    tasks = list(line_tasks([file], per_file=99, taken="rest").tasks.values())
    assert [task.number for task in tasks] == list(range(1, 120, 2)), "a line of one mark has no rest"
    whole = text.split("\n")
    begins = set()
    for task in tasks:
        line = whole[task.number - 1]
        assert task.hole.filled(task.line) == text
        assert line.endswith(task.line)
        assert task.line.strip()
        before = line[: len(line) - len(task.line)]
        assert before.strip()
        assert (before[-1:].isalnum() or before[-1:] == "_") != (task.line[0].isalnum() or task.line[0] == "_")
        begins.add(before.count(" "))
    assert len(begins) > 3, "places of every kind"
    again = line_tasks([file], per_file=99, taken="rest", seed=1).tasks
    assert [task.start for task in tasks] != [task.start for task in again.values()]
    few = line_tasks([file], per_file=5, taken="rest").tasks
    assert set(few.items()) <= {(task.task_id, task) for task in tasks}
    with pytest.raises(DataError, match="too few words for a rest"):
        line_tasks([SourceFile("a", " word\n\n")], per_file=1, taken="rest")


def test_a_span_lies_between_two_words_of_a_line_with_text_on_both_sides():
    text = "".join(f"    alpha_{number} = beta({number}, 'two words')\nname = 1\n    word\n" for number in range(60))
    file = SourceFile("a.py", text)
    tasks = list(line_tasks([file], per_file=999, taken="span").tasks.values())
    assert {task.number % 3 for task in tasks} == {1, 2}, "a line of one word has no span"
    whole = text.split("\n")
    lengths = set()
    for task in tasks:
        line = whole[task.number - 1]
        before, behind = task.hole.prefix.rpartition("\n")[2], task.hole.suffix.partition("\n")[0]
        assert before + task.line + behind == line
        assert all(part.strip() for part in (before, task.line, behind))
        for one, other in ((before[-1], task.line[0]), (task.line[-1], behind[0])):
            assert bool(re.match(r"\w", one)) != bool(re.match(r"\w", other)), line
        lengths.add(len(task.line))
        if task.number % 3 == 2:
            assert (before, task.line, behind) == ("name", " = ", "1")
    assert len(lengths) > 8, "spans of every length"
    with pytest.raises(DataError, match="too few words for a span"):
        line_tasks([SourceFile("a", "two\n")], per_file=1, taken="span")


def test_an_answer_without_the_suffix_ends_before_the_rest_of_its_line():
    assert before_rest_of_line("path) as file:", ") as file:\n    pass\n") == "path"
    assert before_rest_of_line("))", ")\n") == ")", "a span is never empty"
    assert before_rest_of_line("path) as other:", ") as file:\n") == "path) as other:"
    assert before_rest_of_line("a b", " \nb") == before_rest_of_line("a b", "\nb") == "a b"


def test_carriage_returns_stay_in_the_suffix():
    (task,) = line_tasks([SourceFile("a", "x = 1\r\n\r\n")], per_file=1).tasks.values()
    assert (task.line, task.hole.suffix) == ("x = 1", "\r\n\r\n")


def test_a_folder_gives_its_python_files_by_their_path(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.py").write_text("a\n")
    (tmp_path / "b.txt").write_text("b\n")
    (tmp_path / "c.py").write_bytes(b"\xff\n")
    assert [file.name for file in read_source_files([str(tmp_path)])] == ["inner/a.py"]
    for sources, says in (
        ([str(tmp_path / "c.py")], "c.py: is not UTF-8 text"),
        ([str(tmp_path), str(tmp_path / "inner"), str(tmp_path / "inner" / "a.py")], "is the second file named a.py"),
        ([str(tmp_path / "none")], "none: no file found"),
    ):
        with pytest.raises(DataError, match=says):
            read_source_files(sources)
    with pytest.raises(DataError, match="every line is blank"):
        line_tasks([SourceFile("a", " \n\n")], per_file=1)


def test_python_stdlib_means_the_part_that_training_never_saw():
    names = {file.name for file in read_source_files(["python-stdlib"])}
    apart = collect_stdlib().held_out
    assert len(names) == len(apart)
    assert all(any(path.as_posix().endswith(name) for path in apart) for name in names)


def test_edit_distance_is_the_recursive_definition():
    assert edit_distance("kitten", "sitting") == 3
    rng = np.random.default_rng(0)
    for _ in range(60):
        one, other = ("".join(rng.choice(list("ab c"), rng.integers(0, 9))) for _ in range(2))
        assert edit_distance(one, other) == slow_distance(one, other), (one, other)
    assert (edit_similarity("", ""), edit_similarity("abcd", "abed"), edit_similarity("a", "")) == (1.0, 0.75, 0.0)


def test_indentation_counts_and_white_space_behind_does_not():
    assert nearness("    x = 1  \n", "    x = 1").exact
    shifted = nearness("  x = 1", "    x = 1")
    assert (shifted.exact, shifted.stripped, shifted.similarity) == (False, True, 1 - 2 / 9)
    assert nearness("a\r\nb", "a\nb").exact


def test_the_report_is_the_mean_over_tasks():
    found = nearness_report({"a": "x", "b": " y", "c": "zz"}, {"a": "x", "b": "y", "c": "z1"}, ["eos", "stop", "length"])
    assert (found["exact_match"], found["exact_match_stripped"], found["ended_by_model"]) == (1 / 3, 2 / 3, 1 / 3)
    assert found["edit_similarity"] == pytest.approx((1 + 0.5 + 0.5) / 3)
