"""`codellama rank-table make|merge|check`: which device of which server is which rank."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mindformers_codellama.cluster.device_ips import HCCN_CONF, read_device_ips, simulated_device_ips
from mindformers_codellama.cluster.rank_table import RankTable
from mindformers_codellama.cluster.rank_table_check import findings, host_findings
from mindformers_codellama.cluster.rank_table_make import (
    check_server_id,
    device_range,
    is_loopback,
    made_name,
    make_rank_table,
    own_address,
    visible_device_ids,
)
from mindformers_codellama.cluster.rank_table_merge import merge_rank_tables, merged_name, write_rank_table
from mindformers_codellama.cluster.rank_table_read import read_rank_table
from mindformers_codellama.errors import ClusterError, CodeLlamaError, Findings, raise_all

EXAMPLES = """examples:
  codellama rank-table make --device_num "[0,8)" --server_ip 10.0.0.9          # on each machine; writes hccl_8p_01234567_10.0.0.9.json
  codellama rank-table make --device_num "[0,4)" --server_ip 127.0.0.1 --simulate   # without NPUs, for CPU runs
  codellama rank-table merge hccl_8p_*.json                                    # writes hccl_2s_16p.json
  codellama rank-table check hccl_2s_16p.json --resolve
  codellama rank-table check /user/config/jobstart_hccl.json --json
"""
MAKE_EXAMPLES = """The numbers of --device_num count the entries of --visible_devices. Devices 0-3 and 4-7 are two groups: take a range
within one group, or [0,8), or on a server with 16 devices [0,16) or any range from device 4 on, as in MindFormers.

examples:
  python tools/hccl_tools.py --device_num "[0,8)" --server_ip 10.0.0.9
  python tools/hccl_tools.py --device_num "[10,16)"
  python tools/hccl_tools.py --device_num "[0,4)" --visible_devices "4,5,6,7"
  python tools/hccl_tools.py --device_num "[0,4)" --server_ip 127.0.0.1 --simulate
"""
MERGE_EXAMPLES = """Servers are sorted by address as numbers (10.0.0.9 before 10.0.0.10) and ranks counted anew: give each machine the ranks
the merged table shows. A server that is in two files is refused.

examples:
  python tools/merge_hccl.py hccl_8p_*.json
"""
CHECK_EXAMPLES = """Exit code 0 when nothing is wrong (warnings may be shown), 9 otherwise.

examples:
  codellama rank-table check hccl_2s_16p.json --resolve
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Three commands under `rank-table`."""
    commands = parser.add_subparsers(dest="rank_table_command", metavar="COMMAND", required=True)
    for name, add, line, epilog in (
        ("make", _add_make, "the table of this machine, as MindFormers' hccl_tools.py", MAKE_EXAMPLES),
        ("merge", _add_merge, "tables of machines to one, as MindFormers' merge_hccl.py", MERGE_EXAMPLES),
        ("check", _add_check, "everything wrong with a table", CHECK_EXAMPLES),
    ):
        command = commands.add_parser(
            name,
            help=line,
            description=f"{line[0].upper()}{line[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add(command)


def _add_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device_num", default="[0,8)", metavar="RANGE", help='devices, "[a,b)"; "[a,b]" means the same (default [0,8))')
    parser.add_argument("--visible_devices", metavar="LIST", help="hardware numbers of the devices a container sees (default 0,1,2,...)")
    parser.add_argument("--server_ip", default="", metavar="ADDRESS", help="this machine's address (default: its host name's)")
    parser.add_argument("--device_num_per_node", type=int, metavar="N", help="devices of the server (default 8; 16 for a range beyond)")
    parser.add_argument("--hccn_conf", type=Path, default=HCCN_CONF, metavar="FILE", help=f"read when hccn_tool fails ({HCCN_CONF})")
    parser.add_argument("--simulate", action="store_true", help="invent device addresses (192.0.2.N): no NPU is needed, for CPU runs only")
    _add_output(parser)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="rank tables")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: MindFormers' name in the current folder)")
    parser.add_argument("--force", action="store_true", help="replace a file with other content")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="rank table")
    parser.add_argument("--resolve", action="store_true", help="also look up every server's address; one that does not resolve is an error")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Dispatch to the command under `rank-table`."""
    return {"make": run_make, "merge": run_merge, "check": run_check}[arguments.rank_table_command](arguments)


def run_make(arguments: argparse.Namespace) -> int:
    """Write the table of one server."""
    devices = device_range(arguments.device_num, per_node=arguments.device_num_per_node)
    device_ids = visible_device_ids(arguments.visible_devices, devices)
    server_id = check_server_id(arguments.server_ip or own_address())
    if not arguments.server_ip and is_loopback(server_id):
        print(f"warning: this machine's name stands for {server_id}, which other machines cannot reach: give --server_ip.", file=sys.stderr)
    device_ips = simulated_device_ips(device_ids) if arguments.simulate else read_device_ips(device_ids, hccn_conf=arguments.hccn_conf)
    table = make_rank_table(server_id, device_ids, device_ips)
    return _write(table, arguments.output or Path(made_name(devices, server_id)), force=arguments.force)


def run_merge(arguments: argparse.Namespace) -> int:
    """Write the table of several servers."""
    tables: list[RankTable] = []
    errors: list[CodeLlamaError] = []
    for file in arguments.files:
        try:
            tables.append(read_rank_table(file))
        except Findings as error:
            errors += error.errors
        except CodeLlamaError as error:
            errors.append(error)
    raise_all(errors)
    table = merge_rank_tables(tables)
    return _write(table, arguments.output or Path(merged_name(table)), force=arguments.force)


def _write(table: RankTable, path: Path, *, force: bool) -> int:
    written = write_rank_table(table, path, force=force)
    for server in table.servers:
        devices = ",".join(str(device.device_id) for device in server.devices)
        print(f"{server.server_id}: ranks {server.ranks[0]} to {server.ranks[-1]}, devices {devices}")
    for warning in findings(read_rank_table(path)).warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{'wrote' if written else 'as before:'} {path.absolute()}")
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Print what is wrong with a table; 0 when nothing is, 9 otherwise."""
    table: RankTable | None = None
    warnings: list[CodeLlamaError] = []
    try:
        table = read_rank_table(arguments.file)
        errors, warnings = findings(table)
        errors += host_findings(table) if arguments.resolve else []
    except Findings as found:
        errors = list(found.errors)
    except CodeLlamaError as error:
        errors = [error]
    print(_as_json(arguments.file, table, errors, warnings) if arguments.json else _as_text(arguments.file, table, errors, warnings))
    return ClusterError.exit_code if errors else 0


def _as_json(file: Path, table: RankTable | None, errors: list[CodeLlamaError], warnings: list[CodeLlamaError]) -> str:
    def items(found: list[CodeLlamaError]) -> list[dict[str, str]]:
        return [{"where": one.where, "problem": one.problem, "fix": one.fix} for one in found]

    servers = [{"server_id": server.server_id, "ranks": list(server.ranks)} for server in table.servers] if table is not None else []
    ranks = table.ranks if table is not None else 0
    found = {"file": str(file), "ranks": ranks, "servers": servers, "errors": items(errors), "warnings": items(warnings)}
    return json.dumps(found, indent=2, ensure_ascii=False)


def _as_text(file: Path, table: RankTable | None, errors: list[CodeLlamaError], warnings: list[CodeLlamaError]) -> str:
    lines = [str(file)]
    if table is not None:
        lines.append(f"  {len(table.servers)} server{'s' if len(table.servers) > 1 else ''}, {table.ranks} ranks")
        lines += [f"  {server.server_id}: {_ranks(server.ranks)}" for server in table.servers]
    for title, found in (("warnings", warnings), ("errors", errors)):
        lines += [f"{title}:", *(f"  {number}. {one}" for number, one in enumerate(found, 1))] if found else []
    return "\n".join(lines if errors or warnings else [*lines, "nothing is wrong."])


def _ranks(ranks: tuple[int, ...]) -> str:
    if ranks == tuple(range(ranks[0], ranks[0] + len(ranks))) and len(ranks) > 1:
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
