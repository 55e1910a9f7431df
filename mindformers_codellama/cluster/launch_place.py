"""Which ranks of a job are this machine's: a rank table and what a person asked for, to a `Job`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mindformers_codellama.cluster.environment import DEFAULT_PORT, DEFAULT_WAIT, Address, Job, LocalRank
from mindformers_codellama.cluster.launch_address import first_free, is_local, local_addresses, resolve
from mindformers_codellama.cluster.rank_table import RankTable
from mindformers_codellama.errors import ClusterError, ConfigError

logger = logging.getLogger(__name__)

LOCALHOST = "127.0.0.1"
_RANGE = re.compile(r"\[?\s*(\d+)\s*,\s*(\d+)\s*[\])]?")


@dataclass(frozen=True)
class Machine:
    """What is asked of this machine's network; tests give other answers."""

    is_local: Callable[[str], bool] = is_local
    addresses: Callable[[], Sequence[str]] = local_addresses
    resolve: Callable[[str], str] = resolve
    first_free: Callable[[Address], Address] = first_free


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for; None is "not said"."""

    device_target: str = "CPU"
    table: RankTable | None = None
    table_file: Path | None = None
    ranks: int | None = None
    """Ranks of all machines together."""
    devices: tuple[int, int] | None = None
    """First device and the one after the last; with `rank_size` the ranks of this machine instead."""
    rank_size: int | None = None
    """Ranks of all machines together, in MindFormers' way."""
    server_ip: str = ""
    """Which server of the table this machine is."""
    nodes: int | None = None
    node_rank: int | None = None
    master: Address | None = None
    wait: int = DEFAULT_WAIT
    cores: int | None = None
    """Cores this machine's ranks share; None does not limit them."""
    machine: Machine = field(default_factory=Machine)


def parse_devices(text: str) -> tuple[int, int]:
    """(first, one after the last) of `[0,8]` or `[0,8)`, which both mean the devices 0 to 7.

    Raises:
        ConfigError: another form, or no device.
    """
    found = _RANGE.fullmatch(text.strip())
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError("--devices", f"got {text!r}.", fix="[first,last+1] as in MindFormers: [0,8] is the devices 0 to 7.")
    return int(found[1]), int(found[2])


def place(request: Request) -> Job:
    """This machine's part of the job.

    Raises:
        ConfigError: arguments that contradict each other, or say too little.
        ClusterError: the rank table has no such ranks, this machine is none of its servers, or a host does not resolve.
    """
    if request.nodes is not None and request.node_rank is None:
        raise ConfigError("--nodes", "needs --node-rank.", fix="--node-rank 0 on the first machine, 1 on the next, and so on.")
    if request.devices and (request.node_rank is not None or request.server_ip):
        if request.server_ip and request.table:
            return _by_table(request, request.table)
        raise ConfigError("--devices", "and --node-rank or --server-ip both say which part this machine has.", fix="give one of them.")
    return _by_table(request, request.table) if request.table else _by_numbers(request)


def _by_numbers(request: Request) -> Job:
    """Without a rank table."""
    if request.server_ip:
        raise ConfigError("--server-ip", "names a server of a rank table.", fix="give --rank-table too, or --node-rank and --nodes.")
    if request.devices:
        first, end = request.devices
        total, local = _part(first, end, request.rank_size)
        if request.ranks not in (None, total):
            raise ConfigError("--ranks", f"got {request.ranks}, but --devices and --rank-size say {total}.", fix="leave --ranks out.")
    else:
        asked = request.ranks or request.rank_size
        if asked is None:
            raise ConfigError("ranks", "nothing says how many there are.", fix="give --rank-table FILE, --ranks N or --devices [0,N].")
        total, nodes, node = asked, request.nodes or 1, request.node_rank or 0
        if total % nodes or not 0 <= node < nodes:
            problem = f"node {node} of {nodes} with {total} ranks."
            raise ConfigError("--node-rank", problem, fix="nodes must divide the ranks, and are counted from 0.")
        each = total // nodes
        local = tuple(LocalRank(node * each + index, index) for index in range(each))
    if len(local) < total and request.master is None:
        fix = "--master HOST:PORT of the machine with rank 0, the same on every machine."
        raise ConfigError("--master", f"{len(local)} of {total} ranks run here, and nothing says where the others are.", fix=fix)
    return _job(request, total, local, master=request.master or Address(LOCALHOST, DEFAULT_PORT))


def _part(first: int, end: int, rank_size: int | None) -> tuple[int, tuple[LocalRank, ...]]:
    """MindFormers' numbers: alone, device i is rank i - first; with RANK_SIZE, rank i is device i - first.

    Returns:
        (ranks of all machines, those of this one).
    """
    if rank_size is None:
        return end - first, tuple(LocalRank(number - first, number) for number in range(first, end))
    if end > rank_size:
        fix = f"ranks are counted from 0; the last part is [{max(0, rank_size - end + first)},{rank_size}]."
        raise ConfigError("--devices", f"got ranks {first} to {end - 1}, but RANK_SIZE is {rank_size}.", fix=fix)
    return rank_size, tuple(LocalRank(number, number - first) for number in range(first, end))


def _by_table(request: Request, table: RankTable) -> Job:
    """With a rank table."""
    where = request.table_file or table.where("")
    for name, number in (("--ranks", request.ranks), ("RANK_SIZE", request.rank_size)):
        if number is not None and number != table.ranks:
            raise ConfigError(name, f"got {number}, but {where} has {table.ranks} ranks.", fix=f"write {table.ranks}, or make a new table.")
    if request.devices:
        local = _asked_of_table(request, table, request.devices)
        host = table.server_of(local[0].rank).server_id
        _require_here(request, table, host)
    else:
        host = _own_server(request, table)
        local = tuple(LocalRank(rank, _device(table, rank)) for rank in table.local_ranks(host))
    own = _resolved(request, table, host)
    if request.master:
        master = request.master
    elif len(table.hosts) == 1 and not request.machine.is_local(own):
        master = Address(LOCALHOST, DEFAULT_PORT)  # all ranks are here, whatever the table calls this machine
    else:
        master = Address(table.server_of(0).server_id, DEFAULT_PORT)
    return _job(request, table.ranks, local, master=master, own_host=own)


def _asked_of_table(request: Request, table: RankTable, devices: tuple[int, int]) -> tuple[LocalRank, ...]:
    """`[a,b]` against what the table says; the table's devices win, because HCCL reads them."""
    where = request.table_file or table.where("")
    total, asked = _part(*devices, request.rank_size)
    text = f"[{devices[0]},{devices[1]}]"
    if total != table.ranks:
        problem = f"{text} is {total} devices of one machine, but {where} has {table.ranks} ranks on {len(table.hosts)} servers."
        fix = (
            f"with RANK_SIZE {table.ranks}, {text} are this machine's ranks." if len(table.hosts) > 1 else "make a table for these devices."
        )
        raise ConfigError("--devices", problem, fix=fix)
    hosts = list(dict.fromkeys(table.server_of(place.rank).server_id for place in asked))
    if len(hosts) > 1:
        parts = "; ".join(f"{host} has {_span(table.local_ranks(host))}" for host in table.hosts)
        raise ConfigError("--devices", f"the ranks {text} are on {len(hosts)} servers.", fix=f"start each machine's own: {parts}.")
    found = tuple(LocalRank(rank, _device(table, rank)) for rank, _ in asked)
    if request.rank_size is None and found != asked:
        problem = f"{text} are devices {asked[0].device} to {asked[-1].device}, but in {where} they are {_span([d for _, d in found])}."
        raise ConfigError("--devices", problem, fix="make a table for these devices, or name the table's.")
    if found != asked:
        logger.info("devices are the table's (%s), not counted from 0", _span([device for _, device in found]))
    return found


def _own_server(request: Request, table: RankTable) -> str:
    """`server_id` of this machine."""
    hosts = table.hosts
    if request.nodes is not None and request.nodes != len(hosts):
        raise ConfigError("--nodes", f"got {request.nodes}, but the rank table has {len(hosts)} servers.", fix=f"write {len(hosts)}.")
    if request.node_rank is not None:
        if request.node_rank >= len(hosts):
            raise ConfigError("--node-rank", f"got {request.node_rank}, but the rank table has {len(hosts)} servers, counted from 0.")
        return hosts[request.node_rank]
    if request.server_ip:
        if request.server_ip not in hosts:
            raise ConfigError("--server-ip", f"{request.server_ip} is none of the rank table's servers ({', '.join(hosts)}).")
        return request.server_ip
    here = [host for host in hosts if request.machine.is_local(_resolved(request, table, host))]
    if len(here) > 1:
        raise ClusterError(_where(request, table), f"{', '.join(here)} are all this machine's.", fix="say which with --server-ip.")
    if not here and len(hosts) == 1 and request.device_target == "Ascend":
        return hosts[0]  # platforms write an address of the host into tables that containers read
    if not here:
        raise _foreign(request, table, hosts)
    return here[0]


def _require_here(request: Request, table: RankTable, host: str) -> None:
    """The server whose ranks were asked for is this machine, unless --server-ip says so."""
    if request.server_ip and request.server_ip != host:
        raise ConfigError("--server-ip", f"got {request.server_ip}, but the ranks of --devices are on {host}.")
    if request.server_ip or request.machine.is_local(_resolved(request, table, host)):
        return
    if request.device_target == "Ascend":
        logger.warning("%s, which the rank table gives these ranks, is none of this machine's addresses.", host)
        return
    raise _foreign(request, table, [host])


def _foreign(request: Request, table: RankTable, hosts: Sequence[str]) -> ClusterError:
    names = f"{hosts[0]} is" if len(hosts) == 1 else f"{', '.join(hosts)} are"
    problem = f"{names} none of this machine's addresses ({', '.join(request.machine.addresses())})."
    return ClusterError(_where(request, table), problem, fix="say which server of the table this machine is: --server-ip ADDRESS.")


def _resolved(request: Request, table: RankTable, host: str) -> str:
    try:
        return request.machine.resolve(host)
    except ClusterError as error:
        raise ClusterError(_where(request, table), error.problem, fix=error.fix) from error


def _where(request: Request, table: RankTable) -> object:
    return request.table_file or table.where("")


def _device(table: RankTable, rank: int) -> int:
    return next(device.device_id for device in table.devices if device.rank_id == rank)


def _span(numbers: Sequence[int]) -> str:
    """`0 to 7`, or each number where there are gaps."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _job(request: Request, total: int, local: tuple[LocalRank, ...], *, master: Address, own_host: str = "") -> Job:
    """MindSpore takes addresses only, so the scheduler's host is resolved."""
    table_file = request.table_file.resolve() if request.table_file else None
    job = Job(
        ranks=total,
        local=local,
        master=master,
        device_target=request.device_target,
        own_host=own_host,
        rank_table=table_file,
        wait=request.wait,
        threads=None if request.cores is None else max(1, request.cores // len(local)),
    )
    if job.passes_rank_table:
        return job
    try:
        found = Address(request.machine.resolve(master.host), master.port)
        any_port = request.master is None and len(local) == total
        return replace(job, master=request.machine.first_free(found) if any_port else found, any_port=any_port)
    except ClusterError as error:
        raise ClusterError("--master", error.problem, fix=error.fix) from error
