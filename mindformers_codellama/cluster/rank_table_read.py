"""Rank tables from files: MindFormers', HCCL's and MindCluster's `server_list`, and the older `group_list` of ModelArts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mindformers_codellama.cluster.json_source import JsonSource, read_json
from mindformers_codellama.cluster.rank_table import COMPLETED, HOST_NIC_IP, VERSION, Device, RankTable, Server
from mindformers_codellama.cluster.rank_table_groups import read_groups
from mindformers_codellama.errors import ClusterError, CodeLlamaError, raise_all

TABLE_KEYS = ("version", "server_count", "server_list", "status")
SERVER_KEYS = ("server_id", "device", "host_nic_ip")
DEVICE_KEYS = ("device_id", "device_ip", "rank_id")
VENDOR_SERVER_KEYS = ("server_ip", "container_ip", "hardware_type", "host_ip", "pod_name")
"""Written by MindCluster and read by newer HCCL; kept as they are."""
VENDOR_DEVICE_KEYS = ("device_logical_id", "device_port", "backup_device_ip", "backup_device_port", "host_port")


def read_rank_table(path: str | Path) -> RankTable:
    """Read a rank table of MindFormers, HCCL, MindCluster or ModelArts.

    Only the form is judged here; whether the numbers make sense is `rank_table_check.findings`.

    Raises:
        ClusterError: a file that cannot be read, is not JSON, is not complete yet, or lacks what a rank table has
            (`Findings` when several things are wrong), with line and key.
    """
    source, value = read_json(path)
    values = source.object(value, "")
    if values is None:
        raise source.faults[0]
    _require_completed(source, values)
    if "group_list" in values and "server_list" not in values:
        table = read_groups(source, values)
    else:
        table = _read_servers(source, values)
    raise_all(source.faults)
    return table


def _require_completed(source: JsonSource, values: Mapping[str, Any]) -> None:
    """A table that is still being written lacks servers: say that, and nothing else."""
    if values.get("status") == "initializing":
        fix = "wait until the platform has written it whole (status completed); if it stays so, some machine of the job did not start."
        raise ClusterError(source.where("status"), 'is "initializing": the table is not complete yet.', fix=fix)
    status = source.word(values, "status", "")
    if status and status != COMPLETED:
        source.fault("status", f'must be "{COMPLETED}", got "{status}".')


def _read_servers(source: JsonSource, values: Mapping[str, Any]) -> RankTable:
    version = source.word(values, "version", "")
    if version == "1.2":
        source.fault("version", '"1.2" is for super pods of Atlas A3, which this program does not know.', fix=f"use version {VERSION}.")
    elif version and version != VERSION:
        source.fault("version", f'must be "{VERSION}", got "{version}".')
    remarks = source.unknown(values, TABLE_KEYS, "")
    count = source.number(values, "server_count", "")
    servers = [_read_server(source, item, key, remarks) for item, key in source.items(values, "server_list", "")]
    return RankTable(servers=tuple(servers), server_count=count, source=source, remarks=tuple(remarks))


def _read_server(source: JsonSource, value: Any, key: str, remarks: list[CodeLlamaError]) -> Server:
    values = source.object(value, key)
    if values is None:
        return Server(server_id="", devices=())
    remarks += source.unknown(values, (*SERVER_KEYS, *VENDOR_SERVER_KEYS), key)
    server_id = source.word(values, "server_id", key)
    if len(server_id) > 63:
        source.fault(f"{key}.server_id", f"has {len(server_id)} characters; HCCL allows 63.")
    return Server(
        server_id=server_id,
        devices=tuple(_read_device(source, item, at, remarks) for item, at in source.items(values, "device", key)),
        host_nic_ip=source.word(values, "host_nic_ip", key, default=HOST_NIC_IP),
        extra=_others(values, SERVER_KEYS),
        key=key,
    )


def _read_device(source: JsonSource, value: Any, key: str, remarks: list[CodeLlamaError]) -> Device:
    values = source.object(value, key)
    if values is None:
        return Device(device_id=-1, device_ip="", rank_id=-1)
    remarks += source.unknown(values, (*DEVICE_KEYS, *VENDOR_DEVICE_KEYS), key)
    return Device(
        device_id=source.number(values, "device_id", key),
        device_ip=source.word(values, "device_ip", key),
        rank_id=source.number(values, "rank_id", key),
        extra=_others(values, DEVICE_KEYS),
        key=key,
    )


def _others(values: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The keys of other writers."""
    return {name: value for name, value in values.items() if name not in set(known)}
