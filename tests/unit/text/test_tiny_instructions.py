"""The instruction set the quickstart finetunes on: every answer is run, with a check written apart from it."""

import ast
import json
from pathlib import Path

import pytest

from mindformers_codellama import data

RECORDS = json.loads((Path(data.__file__).parent / "assets" / "tiny_instructions.json").read_text(encoding="ascii"))
CHECKS = json.loads(Path(__file__).with_name("instruction_checks.json").read_text())
CODE = [record for record in RECORDS if CHECKS[record["instruction"]] not in ("EVAL", "TEXT")]


def test_records_are_alpaca_form_distinct_and_short():
    assert len(RECORDS) == 120
    assert all(set(record) == {"instruction", "input", "output"} for record in RECORDS)
    assert all(isinstance(value, str) for record in RECORDS for value in record.values())
    assert len({record["instruction"] for record in RECORDS}) == 120
    assert sum(bool(record["input"]) for record in RECORDS) >= 20
    assert all(record["instruction"] and 1 <= len(record["output"].splitlines()) <= 6 for record in RECORDS)
    assert all(value == value.strip() for record in RECORDS for value in record.values())


def test_every_record_has_a_check_and_every_check_a_record():
    assert set(CHECKS) == {record["instruction"] for record in RECORDS}
    assert sum(check == "COMPILE" for check in CHECKS.values()) <= 8


@pytest.mark.parametrize("record", CODE, ids=lambda record: record["instruction"])
def test_an_answer_is_python_that_does_what_was_asked(record):
    compile(record["output"], record["instruction"], "exec")
    check = CHECKS[record["instruction"]]
    if check != "COMPILE":
        names: dict = {}
        exec(record["output"], names)
        assert eval(check, names)


def test_an_answer_that_is_a_value_is_the_value_of_its_input():
    for record in RECORDS:
        if CHECKS[record["instruction"]] == "EVAL":
            assert str(eval(record["input"])) == record["output"], record


def run(code: str, **names):
    exec(code, names)
    return names


def test_rewritten_code_does_what_the_input_did(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("hello")
    given = {"data": [1, 2], "name": "Bo", "age": 3, "items": ["p", "q"], "prices": [1, 2, 3], "add_one": lambda x: x + 1}
    compared = 0
    for record in CODE:
        if CHECKS[record["instruction"]] != "COMPILE" or record["instruction"].startswith("Write a test"):
            continue
        before, printed = run(record["input"], **given), capsys.readouterr().out
        after = run(record["output"], **given)
        assert capsys.readouterr().out == printed
        for node in ast.walk(ast.parse(record["output"])):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in ("x", "f", "i"):
                assert after[node.id] == before[node.id], record
                compared += 1
    assert compared == 4
