"""YAML as MindFormers writes it: numbers, anchors, base files, and where each value stands."""

from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mindformers_codellama.config.yaml_source import load_source, load_yaml, parse_value
from mindformers_codellama.errors import ConfigError


@pytest.mark.parametrize("text", ["1e-5", "1.e-5", "1.0e-5", "1E-5", "10e-6", "1e-05", "+1e-5"])
def test_every_spelling_of_a_small_number_is_a_float(text):
    assert parse_value(text) == pytest.approx(1e-5, rel=1e-15)  # Python's own float() is the oracle for rounding
    assert isinstance(parse_value(text), float)


def test_pyyaml_itself_still_reads_1e_5_as_text():
    """Our rule lives in our own loader; nothing is changed for other users of PyYAML."""
    assert yaml.safe_load("1e-5") == "1e-5"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_prints_as_a_number_is_read_as_that_number(number):
    assert parse_value(repr(number)) == number


@pytest.mark.parametrize("text", ["e5", "1e", "1e-", "0x1e-5", "1.2.3", "2024-01-16", "v1e5", "_1e5"])
def test_what_only_looks_like_a_number_stays_text(text):
    assert parse_value(text) == text


def test_anchors_and_merge_keys_give_the_same_values_as_written_out(write):
    path = write("a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  y: 3\n")
    assert load_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}


def test_base_config_is_merged_underneath_and_lists_are_replaced(write):
    write("seed: 1\nrunner_config: {epochs: 2, batch_size: 4}\ncallbacks: [1, 2]\n", "base.yaml")
    path = write("base_config: base.yaml\nrunner_config: {epochs: 9}\ncallbacks: [3]\n")
    assert load_yaml(path) == {"seed": 1, "runner_config": {"epochs": 9, "batch_size": 4}, "callbacks": [3]}


def test_of_several_base_files_the_later_one_wins(write):
    write("seed: 1\nrun_mode: train\n", "one.yaml")
    write("seed: 2\n", "two.yaml")
    assert load_yaml(write("base_config: [one.yaml, two.yaml]\n")) == {"seed": 2, "run_mode": "train"}


def test_base_files_are_relative_to_the_file_that_names_them(write, tmp_path):
    (tmp_path / "sub").mkdir()
    write("seed: 5\n", "sub/deep.yaml")
    write("base_config: deep.yaml\n", "sub/middle.yaml")
    assert load_yaml(write("base_config: sub/middle.yaml\n")) == {"seed": 5}


def test_a_circle_of_base_files_is_refused_by_name(write):
    write("base_config: run.yaml\n", "other.yaml")
    path = write("base_config: other.yaml\n")
    with pytest.raises(ConfigError, match=r"include each other: run.yaml -> other.yaml -> run.yaml"):
        load_yaml(path)


def test_a_missing_base_file_is_refused_with_its_line(write):
    path = write("seed: 1\nbase_config: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"run.yaml:2: base_config: 'gone.yaml' is not a file"):
        load_yaml(path)


def test_values_know_the_file_and_line_they_were_written_at(write):
    write("seed: 1\nrunner_config:\n  epochs: 2\n", "base.yaml")
    source = load_source(write("base_config: base.yaml\nrunner_config:\n\n  batch_size: 3\n"))
    assert source.where(("runner_config", "epochs")).endswith("base.yaml:3: runner_config.epochs")
    assert source.where(("runner_config", "batch_size")).endswith("run.yaml:4: runner_config.batch_size")
    assert source.where(("runner_config", "sink_mode")).endswith("run.yaml:2: runner_config.sink_mode")


def test_changing_one_value_leaves_its_alias_alone(write):
    source = load_source(write("a: &a {x: {y: 1}}\nb: *a\n"))
    source.put(("b", "x", "y"), 2, "--set b.x.y")
    assert source.values == {"a": {"x": {"y": 1}}, "b": {"x": {"y": 2}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", r"run.yaml:2: seed: is written twice, at lines 1 and 2"),
        ("a:\n  b: 1\n  b: 2\n", r"run.yaml:3: b: is written twice"),
        ("a: [1\nb: 2\n", r"run.yaml:2: is not YAML"),
        ("\tseed: 1\n", r"run.yaml:1: is not YAML"),
        ("- 1\n- 2\n", r"the file holds no mapping"),
        ("a: *nobody\n", r"run.yaml:1: is not YAML: found undefined alias"),
        ("a: &a\n  b: *a\n", r"run.yaml:2: b: an alias inside its own anchor"),
        ("seed: 1\na: x\x00y\n", r"run.yaml:2: is not YAML: the character U\+0000 is not allowed in it"),
        ("a: " + "{a: " * 2000 + "1" + "}" * 2000, r"run.yaml.*: is nested too deeply"),
        ("a: " + "{a: " * 101 + "1" + "}" * 101, r"run.yaml:1: is nested too deeply"),
        (
            "a: &a [1, 1]\n" + "".join(f"x{i}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for i, (a, b) in enumerate(pairwise("abcdefghijk"))),
            "100000 values",
        ),
        ("a: {<<: 3}\n", r"run.yaml:1: is not YAML: expected a mapping"),
        ("seed: 1\n---\nseed: 2\n", r"run.yaml:2: is not YAML"),
        ("? {a: b}\n: 3\n", r"run.yaml:1: is not YAML: found unhashable key"),
        ("a: !!python/object/apply:os.system [echo]\n", r"run.yaml:1: is not YAML: could not determine a constructor"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_yaml(write(text))


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"gone.yaml: cannot be read \(No such file"):
        load_yaml(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_an_empty_file_is_an_empty_mapping(write):
    assert load_yaml(write("# nothing\n")) == {}
