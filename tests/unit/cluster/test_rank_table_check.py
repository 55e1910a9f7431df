"""Everything wrong with a rank table is found, each fault by its own words."""

import copy
import json
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers_codellama.cluster.json_source import JsonSource
from mindformers_codellama.cluster.rank_table import Device, RankTable, Server
from mindformers_codellama.cluster.rank_table_check import findings, host_findings
from mindformers_codellama.cluster.rank_table_make import make_rank_table
from mindformers_codellama.cluster.rank_table_merge import merge_rank_tables
from mindformers_codellama.cluster.rank_table_read import _read_servers
from mindformers_codellama.errors import CodeLlamaError


def a_table(*, servers: int = 3, devices: int = 4, host: str = "10.0.0.") -> RankTable:
    """A sound table."""
    tables = [
        make_rank_table(f"{host}{8 + server}", range(devices), {device: f"192.168.{server}.{device + 1}" for device in range(devices)})
        for server in range(servers)
    ]
    return merge_rank_tables(tables)


def parsed(document: dict) -> RankTable:
    """As reading a file with this document would give it."""
    source = JsonSource("table.json", json.dumps(document, indent=4))
    table = _read_servers(source, document)
    assert not source.faults
    return table


def problems(document: dict) -> tuple[list[str], list[str]]:
    errors, warnings = findings(parsed(document))
    return [str(error) for error in errors], [str(warning) for warning in warnings]


def device_of(document: dict, server: int, device: int) -> dict:
    return document["server_list"][server]["device"][device]


def test_a_sound_table_has_no_findings():
    assert problems(a_table().document()) == ([], [])


@pytest.mark.parametrize("count", ["0", "2", "4"])
def test_a_wrong_count(count):
    errors, _ = problems(a_table().document() | {"server_count": count})
    assert errors == [f'table.json:3: server_count: says {count}, but 3 servers are listed. Fix: write "3", or add the missing servers.']


def test_a_server_listed_twice():
    document = a_table().document()
    document["server_list"][2]["server_id"] = "10.0.0.8"
    errors, _ = problems(document)
    assert errors == [
        "table.json:58: server_list[2].server_id: 10.0.0.8 is listed twice (also server_list[0]). Fix: list each server once."
    ]


def test_a_rank_given_twice_leaves_another_missing():
    document = a_table().document()
    device_of(document, 1, 2)["rank_id"] = "5"
    errors, _ = problems(document)
    assert "server_list[1].device[2].rank_id: rank 5 is given twice (also server_list[1].device[1])." in errors[0]
    assert "server_list: rank 6 is missing: 12 devices have the ranks 0 to 11. Fix: number the ranks anew from 0." in errors[1]
    assert len(errors) == 2


def test_gaps_in_the_ranks():
    document = a_table().document()
    for device in document["server_list"][2]["device"]:
        device["rank_id"] = str(int(device["rank_id"]) + 8)
    errors, _ = problems(document)
    assert errors == [
        "table.json:4: server_list: ranks 8, 9, 10, 11 are missing: 12 devices have the ranks 0 to 11. Fix: number the ranks anew from 0."
    ]


def test_a_rank_far_away_is_found_at_once():
    document = a_table(servers=1).document()
    device_of(document, 0, 3)["rank_id"] = "999999999"
    errors, _ = problems(document)
    assert "rank 3 is missing" in errors[0]


def test_servers_in_another_order_than_their_ranks():
    document = a_table().document()
    document["server_list"].reverse()
    errors, warnings = problems(document)
    assert ["the ranks do not follow the order of servers and devices" in error for error in errors] == [True, True]
    assert ["are not in numerical order" in warning for warning in warnings] == [True, True]


def test_devices_in_another_order_than_their_ranks():
    document = a_table().document()
    document["server_list"][1]["device"].reverse()
    errors, _ = problems(document)
    assert len(errors) == 3
    assert "server_list[1].device[1].rank_id: rank 6 comes after rank 7" in errors[0]


def test_a_device_given_to_two_ranks():
    document = a_table().document()
    device_of(document, 0, 3)["device_id"] = "0"
    errors, _ = problems(document)
    assert len(errors) == 1
    assert "device 0 of server 10.0.0.8 is given twice (also server_list[0].device[0])" in errors[0]


@pytest.mark.parametrize("address", ["192.168.0", "node1", "192.168.0.256", "http://1.2.3.4"])
def test_a_device_address_that_is_none(address):
    document = a_table().document()
    device_of(document, 0, 1)["device_ip"] = address
    errors, _ = problems(document)
    assert len(errors) == 1
    assert f'"{address}" is not an IPv4 or IPv6 address' in errors[0]


def test_servers_in_the_order_of_the_shell_are_a_warning():
    document = a_table().document()
    for server, name in zip(document["server_list"], ("10.0.0.10", "10.0.0.8", "10.0.0.9"), strict=True):
        server["server_id"] = name
    errors, warnings = problems(document)
    assert not errors
    assert len(warnings) == 1
    assert "10.0.0.8 comes after 10.0.0.10: the servers are not in numerical order" in warnings[0]


def test_uneven_servers_and_loopback_addresses_are_warnings():
    document = a_table().document()
    document["server_list"][2]["device"].pop()
    document["server_list"][0]["server_id"] = "127.0.0.1"
    errors, warnings = problems(document)
    assert not errors
    assert any("127.0.0.1 means each machine itself" in warning for warning in warnings)
    assert any("10.0.0.10 has 3 devices, the first server has 4" in warning for warning in warnings)


def test_one_server_may_be_at_the_loopback_address():
    document = a_table(servers=1).document()
    document["server_list"][0]["server_id"] = "127.0.0.1"
    assert problems(document) == ([], [])


def test_simulated_addresses_are_one_warning_however_many_servers_share_them():
    document = a_table(servers=2).document()
    for server in document["server_list"]:
        for number, device in enumerate(server["device"], 1):
            device["device_ip"] = f"192.0.2.{number}"
    errors, warnings = problems(document)
    assert not errors
    assert len(warnings) == 1
    assert "8 device addresses are simulated (192.0.2.0/24): the table works on CPU only" in warnings[0]


def test_hosts_are_looked_up_only_when_asked():
    def resolve(name: str) -> str:
        if name.startswith("node"):
            raise socket.gaierror(-2, "Name or service not known")
        return name

    document = a_table().document()
    document["server_list"][1]["server_id"] = "node-b"
    table = parsed(document)
    assert not findings(table).errors
    (error,) = host_findings(table, resolve)
    assert str(error).startswith("table.json:32: server_list[1].server_id: the host node-b does not resolve. Fix: write its address")


def test_placeholders_are_not_looked_up():
    document = a_table().document()
    document["server_list"][1]["server_id"] = "xx.xx.xx.xx"
    assert not host_findings(parsed(document), lambda _name: None)


def _swap_servers(document: dict, i: int, _j: int) -> None:
    servers = document["server_list"]
    other = (i + 1) % len(servers)
    servers[i], servers[other] = servers[other], servers[i]


def _swap_devices(document: dict, i: int, j: int) -> None:
    devices = document["server_list"][i]["device"]
    other = (j + 1) % len(devices)
    devices[j], devices[other] = devices[other], devices[j]


def _move_rank(document: dict, i: int, j: int) -> None:
    device = device_of(document, i, j)
    device["rank_id"] = str(int(device["rank_id"]) + 1)


def _copy_device_id(document: dict, i: int, j: int) -> None:
    devices = document["server_list"][i]["device"]
    devices[j]["device_id"] = devices[(j + 1) % len(devices)]["device_id"]


def _copy_server_id(document: dict, i: int, _j: int) -> None:
    servers = document["server_list"]
    servers[i]["server_id"] = servers[(i + 1) % len(servers)]["server_id"]


def _copy_device_ip(document: dict, i: int, j: int) -> None:
    servers = document["server_list"]
    device_of(document, i, j)["device_ip"] = device_of(document, (i + 1) % len(servers), j)["device_ip"]


def _drop_device(document: dict, i: int, j: int) -> None:
    del document["server_list"][i]["device"][j]


def _drop_server(document: dict, i: int, _j: int) -> None:
    del document["server_list"][i]


def _miscount(document: dict, i: int, j: int) -> None:
    document["server_count"] = str(len(document["server_list"]) + i + j + 1)


def _add_key(document: dict, i: int, j: int) -> None:
    device_of(document, i, j)["devcie_id"] = "0"


MUTATIONS = [
    _swap_servers,
    _swap_devices,
    _move_rank,
    _copy_device_id,
    _copy_server_id,
    _copy_device_ip,
    _drop_device,
    _drop_server,
    _miscount,
    _add_key,
]


@settings(deadline=None, max_examples=200)
@given(mutate=st.sampled_from(MUTATIONS), servers=st.integers(2, 4), devices=st.integers(2, 4), i=st.integers(0, 3), j=st.integers(0, 3))
def test_every_single_change_of_a_sound_table_is_found(mutate, servers, devices, i, j):
    table = a_table(servers=servers, devices=devices)
    document = copy.deepcopy(table.document())
    mutate(document, i % servers, j % devices)
    errors, warnings = problems(document)
    assert errors or warnings


NAMES = st.one_of(
    st.tuples(*[st.integers(0, 255)] * 4).map(lambda parts: ".".join(map(str, parts))).filter(lambda name: not name.startswith("127.")),
    st.from_regex(r"node-[a-z0-9]{1,8}", fullmatch=True),
)


@st.composite
def sound_tables(draw) -> RankTable:
    """Merged tables of up to 5 servers with up to 8 devices each."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    tables = []
    for server, name in enumerate(names):
        ids = draw(st.lists(st.integers(0, 15), min_size=1, max_size=8, unique=True))
        tables.append(make_rank_table(name, ids, {device: f"192.168.{server}.{device + 1}" for device in ids}))
    return merge_rank_tables(tables)


@settings(deadline=None, max_examples=100)
@given(table=sound_tables(), data=st.data())
def test_merging_the_parts_of_a_table_in_any_order_gives_the_table(table, data):
    parts = [RankTable(servers=(server,), server_count=1) for server in table.servers]
    assert merge_rank_tables(data.draw(st.permutations(parts))) == table
    assert not findings(table).errors


@settings(deadline=None, max_examples=100)
@given(table=sound_tables())
def test_what_is_written_is_read_as_the_same(table):
    read = parsed(json.loads(table.as_text()))
    assert read == table
    assert read.as_text() == table.as_text()
    for rank in range(table.ranks):
        assert rank in read.local_ranks(read.server_of(rank).server_id)


def test_a_thousand_ranks_are_judged_fast():
    """Quadratic searching would take minutes."""
    tables = [make_rank_table(f"10.0.{n // 250}.{n % 250}", range(8), {d: f"192.168.{n}.{d + 1}" for d in range(8)}) for n in range(250)]
    errors, warnings = findings(merge_rank_tables(tables))
    assert (errors, warnings) == ([], [])


def test_merging_refuses_a_server_that_is_in_two_tables():
    one, other = (RankTable(servers=(a_table().servers[0],), server_count=1) for _ in range(2))
    with pytest.raises(CodeLlamaError, match=r"10.0.0.8 is also in server_list\[0\].server_id"):
        merge_rank_tables([one, other])


def test_merging_refuses_what_numbering_anew_cannot_put_right():
    doubled = Server(server_id="10.0.0.1", devices=tuple(Device(device_id=n, device_ip="1.2.3.4", rank_id=0) for n in (0, 1)))
    with pytest.raises(CodeLlamaError, match="rank 0 is given twice"):
        merge_rank_tables([RankTable(servers=(doubled,), server_count=1)])
