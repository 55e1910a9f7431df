"""Tables of single servers to the table of the cluster, and tables to files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mindformers_codellama.cluster.rank_table import Device, RankTable, Server
from mindformers_codellama.cluster.rank_table_check import merge_errors, numerical
from mindformers_codellama.errors import ClusterError, CodeLlamaError, EnvironmentFault, raise_all


def merge_rank_tables(tables: Sequence[RankTable]) -> RankTable:
    """All servers in numerical order of their addresses (then names), ranks counted anew from 0.

    Within a server the devices keep the order of their ranks. MindFormers' `merge_hccl.py` keeps the order of the
    arguments, where a shell's `*` puts 10.0.0.10 before 10.0.0.9; the ranges given to `run_distribute.sh` on each
    machine must then follow that order.

    Raises:
        ClusterError: the same server in two tables, or a table that is itself unsound (`Findings` when several).
    """
    raise_all([error for table in tables for error in merge_errors(table)])
    raise_all(_repeated_servers(tables))
    rank = 0
    servers: list[Server] = []
    for server in sorted((server for table in tables for server in table.servers), key=lambda server: numerical(server.server_id)):
        devices: list[Device] = []
        for device in sorted(server.devices, key=lambda device: device.rank_id):
            devices.append(replace(device, rank_id=rank, key=f"server_list[{len(servers)}].device[{len(devices)}]"))
            rank += 1
        servers.append(replace(server, devices=tuple(devices), key=f"server_list[{len(servers)}]"))
    return RankTable(servers=tuple(servers), server_count=len(servers))


def merged_name(table: RankTable) -> str:
    """`hccl_2s_16p.json`: 2 servers, 16 ranks."""
    return f"hccl_{len(table.servers)}s_{table.ranks}p.json"


def write_rank_table(table: RankTable, path: Path, *, force: bool = False) -> bool:
    """Write a table whole or not at all. A file that says the same already is left as it is, and the answer is False.

    Raises:
        ClusterError: a file with other content, without `force`.
        EnvironmentFault: the folder cannot be written.
    """
    text = table.as_text()
    if path.is_dir():
        raise ClusterError(path, "is a directory; the output is a file.", fix="give a file name.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists():
            if path.read_bytes() == text.encode():
                return False
            if not force:
                raise ClusterError(path, "exists already, with other content.", fix="move it away, or --force to replace it.")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentFault(path, f"cannot be written: {error.strerror}.", fix="run in a folder you may write to.") from None
    return True


def _repeated_servers(tables: Sequence[RankTable]) -> list[CodeLlamaError]:
    first: dict[str, tuple[Server, RankTable]] = {}
    errors: list[CodeLlamaError] = []
    for table in tables:
        for server in table.servers:
            other, origin = first.setdefault(server.server_id, (server, table))
            if other is not server:
                problem = f"{server.server_id} is also in {origin.where(f'{other.key}.server_id')}."
                fix = "give each server once" + ("; leave merged tables out." if max(len(table.servers), len(origin.servers)) > 1 else ".")
                errors.append(ClusterError(table.where(f"{server.key}.server_id"), problem, fix=fix))
    return errors
