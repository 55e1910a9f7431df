"""The rank table of one server, with the rules and the file name of MindFormers' `hccl_tools.py`."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence

from mindformers_codellama.cluster.rank_table import Device, RankTable, Server
from mindformers_codellama.errors import ConfigError, EnvironmentFault

GROUP = 4
"""Devices 0-3 and 4-7 of an Atlas 800 are two groups; a job takes part of one, or the server whole."""
WHOLE = ((0, 8), (0, 16))
"""Ranges that may cross the groups."""
SERVER_ID = re.compile(r"[^\s/\\]{1,63}")


PER_NODE = (8, 16)
"""Devices of a server: the first of these that a range fits into, unless a person says it."""


def device_range(text: str, *, per_node: int | None = None) -> range:
    """`[0,8)`, or `[0,8]` with the same meaning, as MindFormers reads it: the first device, and the one after the last.

    Args:
        text: the range.
        per_node: devices of the server; None is 8, and 16 for a range that goes beyond the first 8.

    Raises:
        ConfigError: another form, an empty range, devices the server has not, or a range across the groups.
    """
    found = re.fullmatch(r"\s*\[\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*[\])]\s*", text)
    if found is None:
        fix = "put it in quotes: the shell reads brackets."
        raise ConfigError("--device_num", f'got "{text}", must be a range such as "[0,8)".', fix=fix)
    start, stop = int(found[1]), int(found[2])
    if per_node is None:
        per_node = next((number for number in PER_NODE if stop <= number), PER_NODE[-1])
    if per_node < 1:
        raise ConfigError("--device_num_per_node", f"got {per_node}, must be at least 1.")
    if start >= stop:
        raise ConfigError("--device_num", f"{text} has no device in it.", fix=f"[{start},{start + 1}) is device {start} alone.")
    if stop > per_node:
        raise ConfigError(
            "--device_num",
            f"{text} goes up to device {stop - 1}, but the server has {per_node} (0 to {per_node - 1}).",
            fix="give a smaller range" + (", or --device_num_per_node 16 where the server has 16." if per_node < PER_NODE[-1] else "."),
        )
    if start < GROUP < stop and (start, stop) not in WHOLE:
        allowed = "[0,8), or [0,16) on 16 devices" if per_node >= 16 else "[0,8)"
        raise ConfigError("--device_num", f"{text} crosses the groups 0-3 and 4-7.", fix=f"stay within one group, or take {allowed}.")
    return range(start, stop)


def visible_device_ids(text: str | None, devices: range) -> list[int]:
    """The hardware's number of each device of the range: the range counts the entries of `--visible_devices`.

    None means 0, 1, 2, ...

    Raises:
        ConfigError: not numbers, a number twice, or fewer numbers than the range needs.
    """
    if text is None:
        return list(devices)
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not re.fullmatch(r"[0-9]{1,9}", word):
            raise ConfigError("--visible_devices", f'got "{text}", must be numbers such as "0,1,2,3".')
    numbers = [int(word) for word in words]
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise ConfigError("--visible_devices", f"device {twice} is given twice.")
    if devices.stop > len(numbers):
        problem = f"has {len(numbers)} devices ({text}), but --device_num takes numbers {devices.start} to {devices.stop - 1} of them."
        fix = f'count from 0 among the visible ones: --device_num "[0,{len(numbers)})".'
        raise ConfigError("--visible_devices", problem, fix=fix)
    return [numbers[device] for device in devices]


def check_server_id(server_id: str) -> str:
    """The address or name of a server, as it may stand in a table and in a file name.

    Raises:
        ConfigError: empty, over 63 characters (HCCL's limit), or with spaces or slashes.
    """
    if not SERVER_ID.fullmatch(server_id):
        problem = f'got "{server_id}", must be an address or host name of 1 to 63 characters without spaces and slashes.'
        raise ConfigError("--server_ip", problem)
    return server_id


def own_address() -> str:
    """The address this machine's name stands for.

    Raises:
        EnvironmentFault: the name does not resolve.
    """
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        problem = f"this machine's name, {socket.gethostname()}, does not resolve."
        raise EnvironmentFault("--server_ip", problem, fix="give this machine's address: --server_ip 10.0.0.9.") from None


def is_loopback(server_id: str) -> bool:
    """Whether an address reaches only the machine itself."""
    try:
        return ipaddress.ip_address(server_id).is_loopback
    except ValueError:
        return server_id == "localhost"


def make_rank_table(server_id: str, device_ids: Sequence[int], device_ips: Mapping[int, str]) -> RankTable:
    """One server whose devices are ranks 0, 1, ... in the order given."""
    devices = tuple(
        Device(device_id=device, device_ip=device_ips[device], rank_id=rank, key=f"server_list[0].device[{rank}]")
        for rank, device in enumerate(device_ids)
    )
    return RankTable(servers=(Server(server_id=server_id, devices=devices, key="server_list[0]"),), server_count=1)


def made_name(devices: range, server_id: str) -> str:
    """`hccl_8p_01234567_10.0.0.9.json`; the numbers are those of the range, as in MindFormers."""
    return f"hccl_{len(devices)}p_{''.join(map(str, devices))}_{server_id}.json"
