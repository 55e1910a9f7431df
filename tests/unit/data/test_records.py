"""Files of records: kinds of files, places, and what is refused."""

import gzip
import json

import pytest

from mindformers_codellama.data.conversation import BadRecord, detect_format, json_kind, require_format, to_conversation
from mindformers_codellama.data.records import read_records
from mindformers_codellama.errors import DataError
from mindformers_codellama.text.prompts import alpaca_prompt

ALPACA = {"instruction": "Add 1.", "input": "", "output": "x + 1"}


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_array_packed_or_with_a_byte_order_mark_gives_its_records(tmp_path, suffix, mark):
    path = tmp_path / f"a{suffix}"
    with (gzip.open if suffix.endswith("gz") else open)(path, "wt", encoding="utf-8") as file:
        file.write(mark + json.dumps([ALPACA, ALPACA]))
    assert [record.value for record in read_records(path)] == [ALPACA, ALPACA]


def test_json_lines_name_file_record_and_line_of_a_bad_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(ALPACA)}\n\n{{broken\n{json.dumps(ALPACA)}\n")
    records = list(read_records(path))
    assert [bool(record.problem) for record in records] == [False, True, False]
    assert str(records[1].place) == f"{path}:3: record 1"
    assert "not JSON" in records[1].problem


def test_bytes_read_are_reported(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ALPACA) + "\n")
    seen = []
    list(read_records(path, seen.append))
    assert sum(seen) >= path.stat().st_size


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"hello", "a JSON array or JSON Lines is needed"),
        (b'[{"a": "\xff"}]', "is not UTF-8 text"),
    ],
)
def test_a_file_without_records_is_refused(tmp_path, content, problem):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        list(read_records(path))


def test_missing_files_folders_and_damaged_gzip_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_records(tmp_path / "none.json"))
    with pytest.raises(DataError, match="is a folder"):
        list(read_records(tmp_path))
    (tmp_path / "a.json.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_records(tmp_path / "a.json.gz"))


def test_three_forms_are_told_apart_and_others_refused():
    assert detect_format(ALPACA) == "alpaca"
    assert detect_format({"conversations": []}) == "sharegpt"
    assert detect_format({"messages": []}) == "messages"
    with pytest.raises(DataError, match=r"here: unknown kind of record \(keys \['prompt'\]\). Fix: records are Alpaca"):
        require_format({"prompt": "x"}, "here")
    with pytest.raises(DataError, match="a number"):
        require_format(3, "here")


def test_the_forms_of_one_conversation_are_equal():
    sharegpt = {"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    messages = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert to_conversation(sharegpt, "sharegpt") == to_conversation(messages, "messages")
    assert to_conversation(ALPACA, "alpaca").turns == ((alpaca_prompt("Add 1."), "x + 1"),)
    assert "### Input:\n5" in to_conversation(ALPACA | {"input": "5"}, "alpaca").turns[0][0]
    assert to_conversation(ALPACA | {"input": None}, "alpaca") == to_conversation(ALPACA, "alpaca")


def test_a_greeting_first_and_a_question_last_are_left_out():
    def say(*roles):
        return {"conversations": [{"from": role, "value": role + str(i)} for i, role in enumerate(roles)]}

    made = to_conversation(say("gpt", "human", "gpt", "human"), "sharegpt")
    assert made.turns == (("human1", "gpt2"),)
    assert made.dropped_turn


@pytest.mark.parametrize(
    ("value", "form", "reason"),
    [
        (7, "alpaca", "not an object"),
        ({"instruction": "x"}, "alpaca", "missing key"),
        ({"instruction": " ", "output": "x"}, "alpaca", "empty question"),
        ({"instruction": ["x"], "output": "x"}, "alpaca", "not text"),
        ({"conversations": []}, "sharegpt", "no messages"),
        ({"conversations": ["x"]}, "sharegpt", "not a message"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "sharegpt", "unknown role"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "sharegpt", "no answer"),
        ({"conversations": [{"from": "human", "value": "x"}] * 2}, "sharegpt", "roles do not alternate"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages", "not text"),
        (ALPACA, "sharegpt", "another kind of record"),
        ({"messages": []}, "alpaca", "another kind of record"),
    ],
)
def test_a_bad_record_has_a_reason(value, form, reason):
    with pytest.raises(BadRecord) as caught:
        to_conversation(value, form)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(reason)
    assert str(caught.value).endswith(".")


def test_a_record_of_another_kind_says_which():
    with pytest.raises(BadRecord, match="another kind of record: this one is messages, but the file is read as sharegpt; keep the kinds"):
        to_conversation({"messages": []}, "sharegpt")
    assert to_conversation({"messages": []} | ALPACA, "alpaca") == to_conversation(ALPACA, "alpaca"), "its own keys are enough"


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), (True, "true or false"), ("x", "a text"), (1, "a number"), (1.5, "a number"), ([], "a list"), ({}, "an object")],
)
def test_values_are_called_what_json_calls_them(value, kind):
    assert json_kind(value) == kind
