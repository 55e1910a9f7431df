"""Rank tables with `group_list`: what ModelArts mounts as `/user/config/jobstart_hccl.json`, and HCCL's old "template 2".

ModelArts (Kubernetes): `group_list[].instance_list[]` with `pod_name`, `server_id` and all `devices` of the machine, without
ranks; ranks follow the number at the end of the pod's name, as in ModelArts' own launcher (davincirun). HCCL's template 2:
one instance per rank, with `rank_id` and one device. Both become the table with `server_list`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mindformers_codellama.cluster.json_source import JsonSource
from mindformers_codellama.cluster.rank_table import Device, RankTable, Server
from mindformers_codellama.errors import ClusterError


@dataclass(frozen=True)
class _Instance:
    server_id: str
    pod_name: str
    rank_id: int | None
    devices: tuple[Device, ...]
    key: str


def read_groups(source: JsonSource, values: Mapping[str, Any]) -> RankTable:
    """The table with `server_list` that says the same; faults are noted in `source`."""
    groups = source.items(values, "group_list", "")
    _require_count(source, values, "group_count", "", len(groups))
    instances: list[_Instance] = []
    for value, key in groups:
        instances += _read_group(source, value, key)
    with_rank = [instance for instance in instances if instance.rank_id is not None]
    if with_rank and len(with_rank) < len(instances):
        odd = next(instance for instance in instances if instance.rank_id is None)
        source.fault(odd.key, 'has no "rank_id", but other instances have one.')
    servers = _ranked(source, instances) if with_rank else _counted(sorted(instances, key=_pod_number))
    if not servers and not source.faults:
        source.fault("group_list", "has no device in it.")
    return RankTable(servers=servers, server_count=len(servers), source=source, remarks=() if with_rank else (_no_ranks(source),))


def _no_ranks(source: JsonSource) -> ClusterError:
    problem = "is the form of ModelArts, which names no ranks: this program counts them, HCCL does not read it."
    fix = f"for Ascend write it with ranks: codellama rank-table merge {source.path}."
    return ClusterError(source.where("group_list"), problem, fix=fix)


def _read_group(source: JsonSource, value: Any, key: str) -> list[_Instance]:
    values = source.object(value, key)
    if values is None or values.get("device_count") == "0":
        return []
    found = [_read_instance(source, item, at) for item, at in source.items(values, "instance_list", key)]
    instances = [instance for instance in found if instance is not None]
    _require_count(source, values, "instance_count", key, len(instances))
    devices = sum(len(instance.devices) for instance in instances)
    for name in ("device_count", "device_num"):
        _require_count(source, values, name, key, devices)
    return instances


def _read_instance(source: JsonSource, value: Any, key: str) -> _Instance | None:
    values = source.object(value, key)
    if values is None:
        return None
    devices = []
    for item, at in source.items(values, "devices", key):
        device = source.object(item, at)
        if device is not None:
            address = source.word(device, "device_ip", at)
            devices.append(Device(device_id=source.number(device, "device_id", at), device_ip=address, rank_id=-1, key=at))
    return _Instance(
        server_id=source.word(values, "server_id", key),
        pod_name=source.word(values, "pod_name", key, default=""),
        rank_id=source.number(values, "rank_id", key) if "rank_id" in values else None,
        devices=tuple(devices),
        key=key,
    )


def _require_count(source: JsonSource, values: Mapping[str, Any], name: str, key: str, counted: int) -> None:
    """A count that is written must be right."""
    if name in values and str(values[name]) != str(counted):
        source.fault(f"{key}.{name}" if key else name, f"says {values[name]}, but {counted} are listed.")


def _pod_number(instance: _Instance) -> int:
    """15 for `job94dc1dbf-job-15`; instances without such a name keep the order of the file."""
    number = re.search(r"-(\d+)$", instance.pod_name)
    return int(number[1]) if number else 0


def _ranked(source: JsonSource, instances: list[_Instance]) -> tuple[Server, ...]:
    """Template 2: one device per instance, its rank is the instance's."""
    by_server: dict[str, list[Device]] = {}
    for instance in sorted(instances, key=lambda one: -1 if one.rank_id is None else one.rank_id):
        if len(instance.devices) > 1:
            source.fault(f"{instance.key}.devices", f"has {len(instance.devices)} devices, but the instance has one rank_id.")
        rank = -1 if instance.rank_id is None else instance.rank_id
        by_server.setdefault(instance.server_id, []).extend(replace(device, rank_id=rank) for device in instance.devices)
    return _servers(by_server)


def _counted(instances: list[_Instance]) -> tuple[Server, ...]:
    """ModelArts: ranks counted from 0 in the order of the instances."""
    by_server: dict[str, list[Device]] = {}
    rank = 0
    for instance in instances:
        for device in instance.devices:
            by_server.setdefault(instance.server_id, []).append(replace(device, rank_id=rank))
            rank += 1
    return _servers(by_server)


def _servers(by_server: Mapping[str, list[Device]]) -> tuple[Server, ...]:
    return tuple(
        Server(server_id=name, devices=tuple(devices), key=devices[0].key.rpartition(".")[0])
        for name, devices in by_server.items()
        if devices
    )
