"""What is wrong with a rank table: everything at once."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mindformers_codellama.cluster.rank_table import Device, RankTable, Server
from mindformers_codellama.errors import ClusterError, CodeLlamaError

PLACEHOLDER = re.compile(r"[xX]+(\.[xX]+)*")
"""`xx.xx.xx.xx`, as samples write an address that is to be filled in."""
SIMULATED = ipaddress.ip_network("192.0.2.0/24")
"""Addresses for documentation (RFC 5737, TEST-NET-1): no network card has one."""


class TableFindings(NamedTuple):
    """`errors` make a table unusable; `warnings` are worth a look."""

    errors: list[CodeLlamaError]
    warnings: list[CodeLlamaError]


def findings(table: RankTable) -> TableFindings:
    """Everything wrong with a table, in the order of the file. Host names are not looked up (`host_findings`)."""
    checks = (_counts, _server_ids, _rank_doubles, _rank_gaps, _rank_order, _device_ids, _device_ips)
    errors = [error for check in checks for error in check(table)]
    looks = (_placeholders, _server_order, _loopback, _uneven, _repeated_ips, _simulated)
    warnings = [*table.remarks, *(warning for look in looks for warning in look(table))]
    return TableFindings(errors, warnings)


def merge_errors(table: RankTable) -> list[CodeLlamaError]:
    """What merging cannot put right: it sorts and numbers anew, so ranks need not start at 0 nor follow the servers."""
    checks = (_counts, _server_ids, _rank_doubles, _device_ids, _device_ips)
    return [error for check in checks for error in check(table)]


def host_findings(table: RankTable, resolve: Callable[[str], object] | None = None) -> list[CodeLlamaError]:
    """One error for each host whose name or address this machine cannot resolve; `resolve` raises OSError then (default: the system's)."""
    found: list[CodeLlamaError] = []
    for server in table.servers:
        if is_placeholder(server.server_id):
            continue
        try:
            resolve(server.server_id) if resolve is not None else socket.getaddrinfo(server.server_id, None)
        except (OSError, UnicodeError):
            fix = "write its address, or add the name to DNS or /etc/hosts of every machine."
            found.append(ClusterError(table.where(f"{server.key}.server_id"), f"the host {server.server_id} does not resolve.", fix=fix))
    return found


def is_placeholder(word: str) -> bool:
    """Whether an address is still to be filled in (`xx.xx.xx.xx`)."""
    return PLACEHOLDER.fullmatch(word) is not None


def numerical(server_id: str) -> tuple[int, int, str]:
    """Sort key: addresses by number, so that 10.0.0.9 comes before 10.0.0.10; then names."""
    address = _address(server_id)
    return (0, int(address), "") if address is not None else (1, 0, server_id)


def _counts(table: RankTable) -> Iterator[CodeLlamaError]:
    if table.server_count != len(table.servers):
        problem = f"says {table.server_count}, but {len(table.servers)} servers are listed."
        yield ClusterError(table.where("server_count"), problem, fix=f'write "{len(table.servers)}", or add the missing servers.')


def _server_ids(table: RankTable) -> Iterator[CodeLlamaError]:
    first: dict[str, Server] = {}
    for server in table.servers:
        other = first.setdefault(server.server_id, server)
        if other is not server and not is_placeholder(server.server_id):
            where = table.where(f"{server.key}.server_id")
            yield ClusterError(where, f"{server.server_id} is listed twice (also {other.key}).", fix="list each server once.")


def _rank_doubles(table: RankTable) -> Iterator[CodeLlamaError]:
    first: dict[int, Device] = {}
    for device in table.devices:
        other = first.setdefault(device.rank_id, device)
        if other is not device:
            where = table.where(f"{device.key}.rank_id")
            yield ClusterError(where, f"rank {device.rank_id} is given twice (also {other.key}).", fix="number the ranks anew from 0.")


def _rank_gaps(table: RankTable) -> Iterator[CodeLlamaError]:
    given = {device.rank_id for device in table.devices}
    missing = [rank for rank in range(table.ranks) if rank not in given]
    if missing:
        problem = f"{_listed(missing)} missing: {table.ranks} devices have the ranks 0 to {table.ranks - 1}."
        yield ClusterError(table.where("server_list"), problem, fix="number the ranks anew from 0.")


def _rank_order(table: RankTable) -> Iterator[CodeLlamaError]:
    ranks = [device.rank_id for device in table.devices]
    for device, before in zip(table.devices[1:], ranks, strict=False):
        if device.rank_id < before:
            problem = f"rank {device.rank_id} comes after rank {before}: the ranks do not follow the order of servers and devices."
            fix = "list servers and devices in the order of their ranks (merging numbers them anew)."
            yield ClusterError(table.where(f"{device.key}.rank_id"), problem, fix=fix)


def _device_ids(table: RankTable) -> Iterator[CodeLlamaError]:
    for server in table.servers:
        first: dict[int, Device] = {}
        for device in server.devices:
            other = first.setdefault(device.device_id, device)
            if other is not device:
                where = table.where(f"{device.key}.device_id")
                problem = f"device {device.device_id} of server {server.server_id} is given twice (also {other.key})."
                yield ClusterError(where, problem, fix="give each rank a device of its own.")


def _device_ips(table: RankTable) -> Iterator[CodeLlamaError]:
    for device in table.devices:
        if _address(device.device_ip) is None and not is_placeholder(device.device_ip):
            problem = f'"{device.device_ip}" is not an IPv4 or IPv6 address.'
            yield ClusterError(
                table.where(f"{device.key}.device_ip"), problem, fix="`hccn_tool -i N -ip -g` shows the address of device N."
            )


def _placeholders(table: RankTable) -> Iterator[CodeLlamaError]:
    for server in table.servers:
        if is_placeholder(server.server_id):
            where = table.where(f"{server.key}.server_id")
            yield ClusterError(where, f"{server.server_id} is a placeholder.", fix="write the server's address before launching.")
    devices = [device for device in table.devices if is_placeholder(device.device_ip)]
    if devices:
        where = table.where(f"{devices[0].key}.device_ip")
        yield ClusterError(where, f"{devices[0].device_ip} is a placeholder ({len(devices)} devices).", fix="write the devices' addresses.")


def _server_order(table: RankTable) -> Iterator[CodeLlamaError]:
    addresses = [server for server in table.servers if _address(server.server_id) is not None]
    for before, server in zip(addresses, addresses[1:], strict=False):
        if numerical(server.server_id) < numerical(before.server_id):
            problem = f"{server.server_id} comes after {before.server_id}: the servers are not in numerical order."
            fix = "start each machine with the ranks the table gives it, or merge the tables anew: merging sorts."
            yield ClusterError(table.where(f"{server.key}.server_id"), problem, fix=fix)


def _loopback(table: RankTable) -> Iterator[CodeLlamaError]:
    for server in table.servers if len(table.servers) > 1 else ():
        address = _address(server.server_id)
        if address is not None and address.is_loopback or server.server_id == "localhost":
            problem = f"{server.server_id} means each machine itself: the others cannot reach this server."
            yield ClusterError(table.where(f"{server.key}.server_id"), problem, fix="write the address the other machines use.")


def _uneven(table: RankTable) -> Iterator[CodeLlamaError]:
    for server in table.servers[1:]:
        if len(server.devices) != len(table.servers[0].devices):
            problem = f"{server.server_id} has {len(server.devices)} devices, the first server has {len(table.servers[0].devices)}."
            yield ClusterError(table.where(f"{server.key}.device"), problem, fix="HCCL wants the same number on every server.")


def _repeated_ips(table: RankTable) -> Iterator[CodeLlamaError]:
    first: dict[str, Device] = {}
    repeated: list[Device] = []
    for device in table.devices:
        if first.setdefault(device.device_ip, device) is not device and not is_simulated(device) and not is_placeholder(device.device_ip):
            repeated.append(device)
    if repeated:
        shown = ", ".join(f"{device.device_ip} (also {first[device.device_ip].key})" for device in repeated[:4])
        more = f" and {len(repeated) - 4} more" if len(repeated) > 4 else ""
        problem = f"given more than once: {shown}{more}."
        yield ClusterError(table.where(f"{repeated[0].key}.device_ip"), problem, fix="on real hardware each device has its own address.")


def _simulated(table: RankTable) -> Iterator[CodeLlamaError]:
    devices = [device for device in table.devices if is_simulated(device)]
    if devices:
        problem = f"{len(devices)} device addresses are simulated ({SIMULATED}): the table works on CPU only."
        yield ClusterError(table.where(f"{devices[0].key}.device_ip"), problem, fix="make the table anew where the NPUs are.")


def is_simulated(device: Device) -> bool:
    """Whether a device's address was invented by `--simulate`."""
    address = _address(device.device_ip)
    return address is not None and address.version == SIMULATED.version and address in SIMULATED


def _address(word: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(word)
    except ValueError:
        return None


def _listed(ranks: Sequence[int]) -> str:
    """`rank 2 is`, `ranks 2, 3 are`: the first few, for a message."""
    shown = ", ".join(map(str, ranks[:8]))
    if len(ranks) == 1:
        return f"rank {shown} is"
    return f"ranks {shown}" + (f" and {len(ranks) - 8} more are" if len(ranks) > 8 else " are")
