"""Rank tables are read strictly, in every form users have, with line and key of what is wrong."""

import json
from pathlib import Path

import pytest
from rank_table_samples import MODELARTS_GROUPS, MODELARTS_SERVERS, ONE_SERVER, TEMPLATE_2, TWO_SERVERS

from mindformers_codellama.cluster.rank_table import RankTable
from mindformers_codellama.cluster.rank_table_check import findings
from mindformers_codellama.cluster.rank_table_read import read_rank_table
from mindformers_codellama.errors import ClusterError, CodeLlamaError, Findings


def read(folder: Path, text: str) -> RankTable:
    path = folder / "table.json"
    path.write_text(text, encoding="utf-8")
    return read_rank_table(path)


def refused(folder: Path, text: str) -> list[str]:
    """The messages, without the folder."""
    with pytest.raises(CodeLlamaError) as caught:
        read(folder, text)
    errors = caught.value.errors if isinstance(caught.value, Findings) else [caught.value]
    return [str(error).replace(f"{folder}/", "") for error in errors]


@pytest.fixture
def sample() -> dict:
    return json.loads(MODELARTS_SERVERS)


def test_the_sample_of_one_server(tmp_path):
    table = read(tmp_path, ONE_SERVER)
    assert (table.ranks, table.hosts, table.server_count, table.version, table.status) == (8, ("xx.xx.xx.xx",), 1, "1.0", "completed")
    assert table.local_ranks("xx.xx.xx.xx") == tuple(range(8))
    assert (table.devices[5].device_id, table.devices[5].device_ip, table.devices[5].rank_id) == (5, "192.2.27.7", 5)
    errors, warnings = findings(table)
    assert not errors
    assert [warning.problem for warning in warnings] == ["xx.xx.xx.xx is a placeholder."]


def test_the_sample_of_two_servers_warns_of_the_repeated_device_addresses(tmp_path):
    table = read(tmp_path, TWO_SERVERS)
    assert (table.ranks, len(table.servers)) == (16, 2)
    assert table.servers[1].ranks == tuple(range(8, 16))
    assert table.server_of(9) is table.servers[1]
    errors, warnings = findings(table)
    assert not errors
    assert [str(warning).replace(f"{tmp_path}/", "") for warning in warnings[2:]] == [
        "table.json:39: server_list[1].device[0].device_ip: given more than once: 192.168.0.1 (also server_list[0].device[4]), "
        "192.168.1.1 (also server_list[0].device[5]), 192.168.2.1 (also server_list[0].device[6]), "
        "192.168.3.1 (also server_list[0].device[7]). Fix: on real hardware each device has its own address."
    ]


def test_a_sample_written_again_says_the_same(tmp_path):
    table = read(tmp_path, TWO_SERVERS)
    assert json.loads(table.as_text()) == json.loads(TWO_SERVERS)
    assert read(tmp_path, table.as_text()) == table


def test_modelarts_groups_get_ranks_by_the_number_of_the_pod(tmp_path):
    table = read(tmp_path, MODELARTS_GROUPS)
    assert table.hosts == ("10.0.0.142", "10.0.0.79")
    assert [(device.rank_id, device.device_ip) for device in table.devices] == [
        (0, "10.1.0.3"),
        (1, "10.1.0.4"),
        (2, "10.1.0.1"),
        (3, "10.1.0.2"),
    ]
    errors, warnings = findings(table)
    assert not errors
    assert "table.json:4: group_list: is the form of ModelArts, which names no ranks" in str(warnings[0])
    (tmp_path / "with_ranks.json").write_text(table.as_text())
    assert read_rank_table(tmp_path / "with_ranks.json") == table


def test_pod_ten_comes_after_pod_nine(tmp_path):
    table = read(tmp_path, MODELARTS_GROUPS.replace("job-a-1", "job-a-9").replace("job-a-0", "job-a-10"))
    assert table.hosts == ("10.0.0.79", "10.0.0.142")


def test_template_2_keeps_its_ranks(tmp_path):
    table = read(tmp_path, TEMPLATE_2)
    assert [(device.rank_id, device.device_id, device.device_ip) for device in table.devices] == [(0, 0, "10.1.0.1"), (1, 1, "10.1.0.2")]
    assert (table.hosts, table.server_count) == (("10.0.0.9",), 1)
    assert not findings(table).errors


def test_modelarts_servers_keep_their_order_with_a_warning(tmp_path):
    table = read(tmp_path, MODELARTS_SERVERS)
    assert table.hosts == ("10.0.0.142", "10.0.0.79")
    errors, warnings = findings(table)
    assert not errors
    assert [warning.problem for warning in warnings] == ["10.0.0.79 comes after 10.0.0.142: the servers are not in numerical order."]


@pytest.mark.parametrize("text", [MODELARTS_GROUPS, MODELARTS_SERVERS], ids=["groups", "servers"])
def test_a_table_still_being_written_is_refused_with_the_reason(tmp_path, text):
    values = json.loads(text) | {"status": "initializing"}
    for name in ("group_list", "server_list"):
        values = values | {name: []} if name in values else values
    (message,) = refused(tmp_path, json.dumps(values))
    assert message.startswith('table.json:1: status: is "initializing": the table is not complete yet. Fix: wait until')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("device_count", "3"), "table.json:7: group_list[0].device_count: says 3, but 4 are listed."),
        (("instance_count", "3"), "table.json:8: group_list[0].instance_count: says 3, but 2 are listed."),
        (("group_count", "2"), "table.json:3: group_count: says 2, but 1 are listed."),
    ],
)
def test_wrong_counts_of_groups_are_refused(tmp_path, change, message):
    name, value = change
    old = json.loads(MODELARTS_GROUPS).get(name) or json.loads(MODELARTS_GROUPS)["group_list"][0][name]
    assert refused(tmp_path, MODELARTS_GROUPS.replace(f'"{name}": "{old}"', f'"{name}": "{value}"')) == [message]


def test_an_instance_with_one_rank_and_two_devices_is_refused(tmp_path):
    text = MODELARTS_GROUPS.replace('"server_id": "10', '"rank_id": "0", "server_id": "10')
    assert "group_list[0].instance_list[0].devices: has 2 devices, but the instance has one rank_id." in refused(tmp_path, text)[0]


def test_an_instance_without_the_rank_the_others_have_is_refused(tmp_path):
    (message,) = refused(tmp_path, TEMPLATE_2.replace('"rank_id": "0", ', ""))
    assert message == 'table.json:14: group_list[0].instance_list[1]: has no "rank_id", but other instances have one.'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.json:1: is not JSON: Expecting value (column 1). Fix: the file is empty."),
        ('{\n "status": ', "table.json:2: is not JSON: Expecting value (column 12)."),
        ('{"status": "completed" // ready\n}', "Fix: JSON has no comments: take them out."),
        ('{"status": "completed",\n "status": "completed"}', 'table.json: gives the key "status" twice in one object. Fix: keep one.'),
        ("[]", "table.json: must be an object {...}, got a list."),
        ("3", "table.json: must be an object {...}, got the number 3."),
        ("[" * 100_000, "table.json: is not a rank table: nested too deeply."),
    ],
    ids=["empty", "cut", "comments", "key-twice", "list", "number", "deep"],
)
def test_a_file_that_is_no_table_is_refused_with_the_line(tmp_path, text, message):
    (found,) = refused(tmp_path, text)
    assert message in found


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("version",), "2.0", 'table.json:4: version: must be "1.0", got "2.0".'),
        (("version",), "1.2", 'version: "1.2" is for super pods of Atlas A3, which this program does not know. Fix: use version 1.0.'),
        (("status",), "done", 'table.json:2: status: must be "completed", got "done".'),
        (("server_count",), 2, 'server_count: must be a text in quotes, got the number 2. Fix: write "2".'),
        (("server_count",), "two", 'server_count: must be a whole number in quotes such as "0", got "two".'),
        (("server_list",), [], "server_list: is empty."),
        (("server_list",), {}, "server_list: must be a list [...], got an object."),
        (("server_list", 1), None, "server_list[1]: must be an object {...}, got null."),
        (("server_list", 0, "server_id"), " ", "server_list[0].server_id: is empty."),
        (("server_list", 0, "server_id"), "a" * 64, "server_list[0].server_id: has 64 characters; HCCL allows 63."),
        (("server_list", 0, "server_id"), True, "server_list[0].server_id: must be a text in quotes, got true or false."),
        (("server_list", 1, "device"), None, "server_list[1].device: is null."),
        (("server_list", 1, "device"), [7], "server_list[1].device[0]: must be an object {...}, got the number 7."),
        (("server_list", 1, "device", 0, "rank_id"), 1, 'device[0].rank_id: must be a text in quotes, got the number 1. Fix: write "1".'),
        (("server_list", 1, "device", 0, "rank_id"), "-1", 'rank_id: must be a whole number in quotes such as "0", got "-1".'),
        (("server_list", 1, "device", 0, "device_id"), "01", 'got "01".'),
        (("server_list", 1, "device", 0, "device_id"), "1e3", 'got "1e3".'),
    ],
)
def test_a_wrong_value_is_refused_with_line_and_key(tmp_path, sample, keys, value, message):
    inner = sample
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    ordered = {name: sample[name] for name in ("status", "server_count", "version", "server_list")}
    (found,) = refused(tmp_path, json.dumps(ordered, indent=1))
    assert message in found
    assert "table.json:" in found


@pytest.mark.parametrize("name", ["version", "status", "server_count", "server_list"])
def test_a_missing_key_of_the_table_is_refused(tmp_path, sample, name):
    del sample[name]
    assert refused(tmp_path, json.dumps(sample)) == [f'table.json: has no "{name}".']


@pytest.mark.parametrize("name", ["device_id", "device_ip", "rank_id"])
def test_a_missing_key_of_a_device_is_refused_and_a_misspelt_one_named(tmp_path, sample, name):
    device = sample["server_list"][0]["device"][0]
    device[name + "s"] = device.pop(name)
    assert refused(tmp_path, json.dumps(sample)) == [f'table.json:1: server_list[0].device[0]: has no "{name}".']


def test_all_faults_are_told_at_once(tmp_path, sample):
    sample["version"] = "3"
    sample["server_list"][0]["server_id"] = ""
    del sample["server_list"][1]["device"][0]["device_ip"]
    assert len(refused(tmp_path, json.dumps(sample))) == 3


def test_keys_of_other_writers_are_kept_and_unknown_ones_remarked(tmp_path, sample):
    sample["server_list"][0] |= {"container_ip": "172.16.0.1", "hots_nic_ip": "reserve"}
    sample["server_list"][0]["device"][0]["device_port"] = "16666"
    table = read(tmp_path, json.dumps(sample, indent=2))
    written = json.loads(table.as_text())["server_list"][0]
    assert (written["container_ip"], written["device"][0]["device_port"]) == ("172.16.0.1", "16666")
    (remark, _order) = findings(table).warnings
    assert "server_list[0].hots_nic_ip: is a key this program does not know" in str(remark)
    assert remark.fix == "did you mean host_nic_ip?"


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(ClusterError, match="none.json: cannot be read: No such file or directory"):
        read_rank_table(tmp_path / "none.json")
    with pytest.raises(ClusterError, match="cannot be read: Is a directory"):
        read_rank_table(tmp_path)
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ClusterError, match="is not text"):
        read_rank_table(tmp_path / "x.json")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    assert read(tmp_path, "\ufeff" + ONE_SERVER).ranks == 8


def test_a_rank_or_server_the_table_has_not_is_an_error(tmp_path):
    table = read(tmp_path, ONE_SERVER)
    with pytest.raises(ClusterError, match="has no rank 8; it has 8 ranks on 1 servers"):
        table.server_of(8)
    with pytest.raises(ClusterError, match=r"has no server 10.0.0.1; it has xx.xx.xx.xx"):
        table.local_ranks("10.0.0.1")
