"""`codellama plan CONFIG --ranks N`: memory, communication and waiting of a run before it is started."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

from mindformers_codellama.cli.plan_text import as_json, as_text
from mindformers_codellama.cluster.rank_table_check import findings
from mindformers_codellama.cluster.rank_table_read import read_rank_table
from mindformers_codellama.config.check import rank_count
from mindformers_codellama.config.read import read_run
from mindformers_codellama.errors import ClusterError, ConfigError, EnvironmentFault, raise_all
from mindformers_codellama.layout.cuts import run_layout
from mindformers_codellama.layout.ranks import Layout
from mindformers_codellama.planner.devices import GIB, Servers, parse_memory
from mindformers_codellama.planner.plan import make_plan

ASCEND_MEMORY = "64GB"
"""Of an Atlas 800T A2, the machine of the shipped configurations."""
PER_SERVER = 8
"""NPUs of an Ascend server, when no rank table says otherwise."""
MEMORY_INFO = Path("/proc/meminfo")
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")

EXAMPLES = """examples:
  codellama plan configs/codellama/finetune_codellama_34b_910b.yaml --ranks 32
  codellama plan configs/codellama/run_codellama_70b_910b.yaml --ranks 1024 --json
  codellama plan configs/codellama/run_codellama_34b_910b.yaml --ranks 16 --layout 1x8x2 --set recompute_config.recompute=False
  codellama plan configs/codellama/predict_codellama_34b_910b.yaml --rank-table hccl_2p.json --device-memory 32GB

Exit code 0 when the layout fits, 9 when it does not or cannot be. docs/scaling.md says how far to trust the numbers.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, the ranks, and what a device has."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file")
    parser.add_argument("--ranks", type=int, metavar="N", help="how many ranks (default: the rank table's, RANK_SIZE, the file's degrees)")
    parser.add_argument("--rank-table", metavar="FILE", help="which ranks share a server (default: 8 per server on Ascend, all on CPU)")
    parser.add_argument(
        "--device-memory", metavar="SIZE", help=f"of one device, 1 GB = 1024^3 bytes (default: {ASCEND_MEMORY} on Ascend, on CPU a share)"
    )
    parser.add_argument("--layout", metavar="DPxMPxPP", help="data x model x stage degrees to plan instead of the file's")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set one key; may be repeated")
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; 0 when it fits, 9 otherwise."""
    config = read_run(arguments.config, overrides=arguments.overrides)
    if config.model.model_config.pet_config is not None and config.run_mode in ("train", "finetune"):
        problem = "trains an adapter, of which every rank has a copy; plans are of runs that train every weight."
        fix = "codellama check tells the memory of each rank; without pet_config, all weights are planned."
        raise ConfigError("model.model_config.pet_config", problem, fix=fix)
    device = config.context.device_target
    asked = parse_layout(arguments.layout) if arguments.layout else None
    table = None
    if arguments.rank_table:
        table = read_rank_table(arguments.rank_table)
        raise_all(findings(table).errors)
    ranks = arguments.ranks
    if ranks is None:
        ranks = table.ranks if table else asked.ranks if asked else rank_count() or run_layout(config).ranks
    if ranks < 1:
        raise ConfigError("--ranks", f"got {ranks}, must be at least 1.")
    if table is not None and table.ranks != ranks:
        raise ClusterError(arguments.rank_table, f"has {table.ranks} ranks, --ranks says {ranks}.", fix="leave --ranks out.")
    if table is not None:
        places = {server.server_id: place for place, server in enumerate(table.servers)}
        servers = Servers(tuple(places[table.server_of(rank).server_id] for rank in range(ranks)))
    else:
        servers = Servers.of_size(ranks, PER_SERVER if device == "Ascend" else ranks)
    if arguments.device_memory:
        memory = parse_memory(arguments.device_memory, where="--device-memory")
    elif device == "Ascend":
        memory = parse_memory(ASCEND_MEMORY, where="--device-memory")
    else:
        busiest = max(servers.server_of.count(server) for server in set(servers.server_of))
        memory = machine_memory() // busiest
    plan = make_plan(config, ranks, device_memory=memory, servers=servers, asked=asked)
    if arguments.json:
        print(json.dumps({"config": arguments.config, **as_json(plan)}, indent=2, ensure_ascii=False))
    else:
        print("\n".join([arguments.config, *as_text(plan)]))
    return 0 if plan.chosen.fits else ClusterError.exit_code


def parse_layout(text: str) -> Layout:
    """`2x4x2` (data, model, stage) as a layout.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(r"(\d+)[x*](\d+)[x*](\d+)", text.strip().lower())
    degrees = [int(part) for part in found.groups()] if found else [0]
    if min(degrees) < 1:
        raise ConfigError("--layout", f"got {text!r}.", fix="write data x model x stage degrees, such as 2x4x2.")
    return Layout(data_parallel=degrees[0], model_parallel=degrees[1], pipeline_stage=degrees[2])


def machine_memory() -> int:
    """Bytes this machine (or its control group) gives to processes.

    Raises:
        EnvironmentFault: the system does not say.
    """
    try:
        total = int(next(line for line in MEMORY_INFO.read_text().splitlines() if line.startswith("MemTotal")).split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if total < GIB // 64:
        raise EnvironmentFault("--device-memory", "this system does not say how much memory it has.", fix="give --device-memory.")
    try:
        limit = CGROUP_MEMORY.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
