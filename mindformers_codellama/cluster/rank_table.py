"""Rank tables: which device of which server is which rank.

The JSON is the one of MindFormers' `hccl_tools.py` and of HCCL ("template 1": version "1.0", `server_list`).
`rank_table_read` reads it, `rank_table_check` judges it, `rank_table_make` and `rank_table_merge` write it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mindformers_codellama.cluster.json_source import JsonSource
from mindformers_codellama.errors import ClusterError, CodeLlamaError

VERSION = "1.0"
COMPLETED = "completed"
HOST_NIC_IP = "reserve"
"""What MindFormers writes for `host_nic_ip`; HCCL does not read it."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One NPU, or on CPU one process."""

    device_id: int
    """Number of the device within its server."""
    device_ip: str
    """Address of the device's own network card; not used on CPU."""
    rank_id: int
    """Rank in the job."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of other writers, kept as they are."""
    key: str = field(default="", compare=False, repr=False)
    """Where it was written, for messages."""

    def document(self) -> dict[str, Any]:
        """As in the file."""
        return {"device_id": str(self.device_id), "device_ip": self.device_ip, "rank_id": str(self.rank_id), **self.extra}


@dataclass(frozen=True, kw_only=True)
class Server:
    """One machine."""

    server_id: str
    """Its address or host name; unique in the table."""
    devices: tuple[Device, ...]
    host_nic_ip: str = HOST_NIC_IP
    extra: Mapping[str, Any] = field(default_factory=dict)
    key: str = field(default="", compare=False, repr=False)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Its ranks, in the order written."""
        return tuple(device.rank_id for device in self.devices)

    def document(self) -> dict[str, Any]:
        """As in the file."""
        devices = [device.document() for device in self.devices]
        return {"server_id": self.server_id, "device": devices, "host_nic_ip": self.host_nic_ip, **self.extra}


@dataclass(frozen=True, kw_only=True)
class RankTable:
    """The servers of a job. A table that was read may still be unsound: see `rank_table_check.findings`."""

    servers: tuple[Server, ...]
    server_count: int
    """As the file states it."""
    version: str = VERSION
    status: str = COMPLETED
    source: JsonSource | None = field(default=None, compare=False, repr=False)
    """The file it was read from."""
    remarks: tuple[CodeLlamaError, ...] = field(default=(), compare=False, repr=False)
    """What reading found that does no harm."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """`server_id` of each server, in the order of the table."""
        return tuple(server.server_id for server in self.servers)

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices, in the order of the table."""
        return tuple(device for server in self.servers for device in server.devices)

    @property
    def ranks(self) -> int:
        """How many ranks the table has."""
        return len(self.devices)

    def server_of(self, rank: int) -> Server:
        """The server a rank runs on.

        Raises:
            ClusterError: the table has no such rank.
        """
        if rank not in self._server_of:
            raise ClusterError(self.where(""), f"has no rank {rank}; it has {self.ranks} ranks on {len(self.servers)} servers.")
        return self._server_of[rank]

    def local_ranks(self, server_id: str) -> tuple[int, ...]:
        """The ranks of one server, ascending.

        Raises:
            ClusterError: the table has no such server.
        """
        if server_id not in self.hosts:
            raise ClusterError(self.where(""), f"has no server {server_id}; it has {', '.join(self.hosts)}.")
        return tuple(sorted(rank for server in self.servers if server.server_id == server_id for rank in server.ranks))

    def where(self, key: str) -> str:
        """A place of the table for messages: `file:line: key` when it was read from a file."""
        return self.source.where(key) if self.source is not None else key or "rank table"

    def document(self) -> dict[str, Any]:
        """As in the file."""
        servers = [server.document() for server in self.servers]
        return {"version": VERSION, "server_count": str(self.server_count), "server_list": servers, "status": self.status}

    def as_text(self) -> str:
        """The file, byte for byte as MindFormers' tools write it (indent 4, no newline at the end)."""
        return json.dumps(self.document(), indent=4)

    @cached_property
    def _server_of(self) -> dict[int, Server]:
        return {device.rank_id: server for server in self.servers for device in server.devices}
