"""Rank table and arguments to this machine's part of a job, and a part to the environment of its ranks."""

import dataclasses
import socket
from pathlib import Path

import pytest

from mindformers_codellama.cluster.environment import Address, Job, LocalRank, environment, rank_variables, scheduler_variables
from mindformers_codellama.cluster.launch_address import first_free, is_local, local_addresses, parse_address, resolve
from mindformers_codellama.cluster.launch_place import Machine, Request, parse_devices, place
from mindformers_codellama.cluster.rank_table import Device, RankTable, Server
from mindformers_codellama.errors import ClusterError, ConfigError


def table(*servers, first_device=0):
    """A table of (host, number of devices)."""
    made, rank = [], 0
    for host, count in servers:
        devices = [Device(device_id=first_device + i, device_ip=f"192.0.2.{rank + i}", rank_id=rank + i) for i in range(count)]
        made.append(Server(server_id=host, devices=tuple(devices)))
        rank += count
    return RankTable(servers=tuple(made), server_count=len(made))


def here(*addresses):
    """A machine with these addresses."""
    return Machine(
        is_local=lambda host: host in addresses, addresses=lambda: addresses, resolve=lambda host: host, first_free=lambda address: address
    )


ONE = table(("10.0.0.1", 8))
TWO = table(("10.0.0.1", 4), ("10.0.0.2", 4))
FIRST, SECOND = here("127.0.0.1", "10.0.0.1"), here("127.0.0.1", "10.0.0.2")


def asked(**settings):
    return place(Request(**{"machine": FIRST, **settings}))


def numbers(job):
    return [tuple(each) for each in job.local]


@pytest.mark.parametrize(("text", "devices"), [("[0,8]", (0, 8)), ("[0,8)", (0, 8)), ("[ 8, 16 ]", (8, 16)), ("4,6", (4, 6))])
def test_both_brackets_mean_the_end_is_not_included(text, devices):
    assert parse_devices(text) == devices


@pytest.mark.parametrize("text", ["", "[0-8]", "[8,0]", "[3,3]", "8", "[a,b]"])
def test_other_ranges_are_refused(text):
    with pytest.raises(ConfigError, match=r"--devices: got .* Fix: \[first,last\+1\]"):
        parse_devices(text)


def test_one_machine_counts_ranks_from_its_first_device():
    job = asked(table=table(("10.0.0.1", 4), first_device=4), devices=(4, 8))
    assert numbers(job) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert (job.ranks, job.master, job.has_scheduler, job.spans_machines) == (4, Address("10.0.0.1", 8118), True, False)


@pytest.mark.parametrize(("machine", "devices", "expected"), [(FIRST, (0, 4), range(4)), (SECOND, (4, 8), range(4, 8))])
def test_with_rank_size_the_range_is_ranks_and_devices_count_from_0(machine, devices, expected):
    job = asked(table=TWO, devices=devices, rank_size=8, machine=machine)
    assert numbers(job) == [(rank, index) for index, rank in enumerate(expected)]
    assert (job.ranks, job.master, job.has_scheduler, job.spans_machines) == (8, Address("10.0.0.1", 8118), machine is FIRST, True)
    assert job.own_host == ("10.0.0.1" if machine is FIRST else "10.0.0.2")


def test_the_table_says_which_devices_a_rank_has_when_they_do_not_count_from_0():
    two = table(("10.0.0.1", 2), ("10.0.0.2", 2), first_device=6)
    assert numbers(asked(table=two, devices=(2, 4), rank_size=4, machine=SECOND)) == [(2, 6), (3, 7)]


def test_a_table_alone_is_enough_where_addresses_tell_the_server():
    assert numbers(asked(table=TWO, machine=SECOND)) == [(4, 0), (5, 1), (6, 2), (7, 3)]
    assert numbers(asked(table=TWO, node_rank=1, machine=here())) == [(4, 0), (5, 1), (6, 2), (7, 3)]
    assert numbers(asked(table=TWO, server_ip="10.0.0.1", machine=here())) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_without_a_table():
    assert numbers(asked(ranks=2)) == [(0, 0), (1, 1)]
    assert asked(ranks=2).master == Address("127.0.0.1", 8118)
    assert numbers(asked(ranks=4, nodes=2, node_rank=1, master=Address("10.0.0.1", 8200))) == [(2, 0), (3, 1)]
    assert numbers(asked(devices=(2, 4))) == [(0, 2), (1, 3)]
    assert numbers(asked(devices=(2, 4), rank_size=4, master=Address("10.0.0.1", 8200))) == [(2, 0), (3, 1)]


def test_a_table_of_this_machine_under_another_name_meets_at_localhost():
    job = asked(table=ONE, server_ip="10.0.0.1", machine=here("127.0.0.1"))
    assert job.master == Address("127.0.0.1", 8118)


def test_cores_are_shared():
    assert asked(ranks=4, cores=8).threads == 2
    assert asked(ranks=4, cores=2).threads == 1
    assert asked(ranks=4).threads is None


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({}, ConfigError, "ranks: nothing says how many there are."),
        ({"table": TWO, "ranks": 4}, ConfigError, r"--ranks: got 4, but rank table has 8 ranks"),
        ({"table": TWO, "devices": (0, 4), "rank_size": 16}, ConfigError, "RANK_SIZE: got 16, but"),
        (
            {"table": TWO, "devices": (0, 4)},
            ConfigError,
            r"\[0,4\] is 4 devices of one machine, but .* has 8 ranks on 2 servers. Fix: with RANK_SIZE 8",
        ),
        (
            {"table": TWO, "devices": (2, 6), "rank_size": 8},
            ConfigError,
            r"are on 2 servers. Fix: .* 10.0.0.1 has 0 to 3; 10.0.0.2 has 4 to 7",
        ),
        ({"table": TWO, "devices": (6, 10), "rank_size": 8}, ConfigError, r"ranks 6 to 9, but RANK_SIZE is 8"),
        ({"table": ONE, "devices": (8, 16)}, ConfigError, r"are devices 8 to 15, but .* 0 to 7"),
        (
            {"table": TWO, "machine": here("127.0.0.1", "10.0.0.9")},
            ClusterError,
            r"10.0.0.1, 10.0.0.2 are none of this machine's addresses \(127.0.0.1, 10.0.0.9\). Fix: .*--server-ip",
        ),
        ({"table": TWO, "devices": (4, 8), "rank_size": 8}, ClusterError, "10.0.0.2 is none of this machine's addresses"),
        (
            {"table": TWO, "machine": here("10.0.0.1", "10.0.0.2")},
            ClusterError,
            "10.0.0.1, 10.0.0.2 are all this machine's. Fix: .*--server-ip",
        ),
        ({"table": TWO, "server_ip": "10.0.0.3"}, ConfigError, r"--server-ip: 10.0.0.3 is none of the rank table's servers"),
        ({"table": TWO, "server_ip": "10.0.0.2", "devices": (0, 4), "rank_size": 8}, ConfigError, "the ranks of --devices are on 10.0.0.1"),
        ({"table": TWO, "node_rank": 2}, ConfigError, "got 2, but the rank table has 2 servers, counted from 0"),
        ({"table": TWO, "node_rank": 1, "nodes": 3}, ConfigError, "--nodes: got 3, but the rank table has 2"),
        ({"nodes": 2, "ranks": 4}, ConfigError, "--nodes: needs --node-rank"),
        ({"ranks": 3, "nodes": 2, "node_rank": 0}, ConfigError, "nodes must divide the ranks"),
        ({"ranks": 4, "nodes": 2, "node_rank": 2}, ConfigError, "node 2 of 2"),
        ({"ranks": 4, "nodes": 2, "node_rank": 1}, ConfigError, "--master: 2 of 4 ranks run here, and nothing says where the others are"),
        ({"ranks": 4, "server_ip": "10.0.0.1"}, ConfigError, "--server-ip: names a server of a rank table"),
        ({"devices": (0, 4), "node_rank": 1}, ConfigError, "both say which part"),
        ({"devices": (0, 4), "ranks": 3}, ConfigError, "--ranks: got 3, but --devices"),
    ],
)
def test_what_does_not_fit_is_told(settings, kind, message):
    with pytest.raises(kind, match=message):
        asked(**settings)


def test_a_host_that_does_not_resolve():
    with pytest.raises(ClusterError, match="the host no-such-host.invalid does not resolve"):
        place(Request(table=table(("no-such-host.invalid", 2))))
    with pytest.raises(ClusterError, match="--master: the host no-such-host.invalid does not resolve"):
        place(Request(ranks=2, master=Address("no-such-host.invalid", 8118)))


def test_on_ascend_a_platforms_table_may_name_an_address_of_the_host(caplog):
    assert len(asked(table=ONE, device_target="Ascend", machine=here()).local) == 8
    assert len(asked(table=TWO, devices=(4, 8), rank_size=8, device_target="Ascend", machine=here()).local) == 4
    assert "10.0.0.2, which the rank table gives these ranks, is none of this machine's addresses" in caplog.text


def test_this_machine_knows_itself():
    assert "127.0.0.1" in local_addresses()
    assert is_local("127.0.0.1")
    assert is_local("localhost")
    assert not is_local("192.0.2.1")
    assert resolve("localhost") == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "address"),
    [("10.0.0.1:8200", ("10.0.0.1", 8200)), ("host", ("host", 8118)), ("[::1]:80", ("::1", 80)), ("[::1]", ("::1", 8118))],
)
def test_addresses(text, address):
    assert parse_address(text, default_port=8118) == address


@pytest.mark.parametrize("text", [":80", "host:", "host:x", "host:0", "host:70000"])
def test_wrong_addresses(text):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        parse_address(text, default_port=8118)


HALF = Job(ranks=4, local=(LocalRank(2, 0), LocalRank(3, 1)), master=Address("10.0.0.1", 8118), own_host="10.0.0.2", wait=99, threads=1)


def test_on_cpu_a_rank_meets_in_the_dynamic_cluster_and_never_sees_the_table():
    job = Job(**{**vars(HALF), "rank_table": Path("/t.json")})
    assert rank_variables(job, job.local[1]) == {
        "MS_ROLE": "MS_WORKER",
        "MS_NODE_ID": "3",
        "MS_WORKER_NUM": "4",
        "MS_SCHED_HOST": "10.0.0.1",
        "MS_SCHED_PORT": "8118",
        "MS_TOPO_TIMEOUT": "99",
        "MS_WORKER_IP": "10.0.0.2",
        "RANK_ID": "3",
        "RANK_SIZE": "4",
        "DEVICE_ID": "1",
        "CODELLAMA_LOCAL_RANKS": "2",
    }
    whole = environment(job, rank_variables(job, job.local[1]), {"RANK_TABLE_FILE": "/old.json", "PATH": "/bin"})
    assert "RANK_TABLE_FILE" not in whole
    assert (whole["PATH"], whole["OMP_NUM_THREADS"], whole["PYTHONUNBUFFERED"]) == ("/bin", "1", "1")


def test_the_scheduler_has_no_rank():
    job = Job(**{**vars(HALF), "local": (LocalRank(0, 0), LocalRank(1, 1))})
    inherited = {"MS_NODE_ID": "7", "RANK_ID": "7", "OMP_NUM_THREADS": "3"}
    whole = environment(job, scheduler_variables(job), inherited)
    assert whole["MS_ROLE"] == "MS_SCHED"
    assert not {"MS_NODE_ID", "RANK_ID"} & set(whole)
    assert whole["OMP_NUM_THREADS"] == "3", "what a person set stays"
    assert job.has_scheduler
    assert not HALF.has_scheduler


def test_on_ascend_the_table_goes_through():
    job = Job(**{**vars(HALF), "rank_table": Path("/t.json"), "device_target": "Ascend", "threads": None})
    assert rank_variables(job, job.local[0]) == {
        "RANK_TABLE_FILE": "/t.json",
        "RANK_ID": "2",
        "RANK_SIZE": "4",
        "DEVICE_ID": "0",
        "CODELLAMA_LOCAL_RANKS": "2",
    }
    whole = environment(job, rank_variables(job, job.local[0]), {"MS_ROLE": "MS_WORKER", "MS_SCHED_HOST": "10.9.9.9"})
    assert not [name for name in whole if name.startswith("MS_")]
    assert not Job(**{**vars(job), "local": (LocalRank(0, 0),)}).has_scheduler


def test_on_ascend_without_a_table_ranks_meet_as_on_cpu():
    job = Job(**{**vars(HALF), "device_target": "Ascend"})
    assert rank_variables(job, job.local[0])["MS_ROLE"] == "MS_WORKER"


def test_a_restart_takes_the_next_port():
    assert HALF.after_restart(0) == HALF
    assert HALF.after_restart(3).master == Address("10.0.0.1", 8121)


def test_a_job_of_one_machine_takes_the_next_free_port_unless_it_names_one():
    busy = dataclasses.replace(here("10.0.0.1"), first_free=lambda address: Address(address.host, address.port + 3))
    assert place(Request(ranks=4, machine=busy)).master == Address("127.0.0.1", 8121)
    assert place(Request(table=ONE, machine=busy)).master == Address("10.0.0.1", 8121)
    assert place(Request(table=TWO, machine=busy)).master == Address("10.0.0.1", 8118), "the other machine could not know"
    named = Address("127.0.0.1", 9000)
    assert place(Request(ranks=4, master=named, machine=busy)).master == named


def test_the_first_free_port_is_found():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        held = Address("127.0.0.1", holder.getsockname()[1])
        assert first_free(held).port > held.port
    assert first_free(held) == held
