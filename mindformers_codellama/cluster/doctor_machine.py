"""Checks of this machine and of the job's table: hosts, disks, ports, memory, limits."""

from __future__ import annotations

import locale
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from mindformers_codellama.cluster.diagnosis import Diagnosis, bad, good, look
from mindformers_codellama.cluster.environment import Address
from mindformers_codellama.cluster.launch_address import is_local, require_free
from mindformers_codellama.cluster.memory import available_memory
from mindformers_codellama.cluster.rank_table import RankTable
from mindformers_codellama.cluster.rank_table_check import findings, host_findings
from mindformers_codellama.cluster.shared_disk import SHARED_PATHS, disk_of, existing_part
from mindformers_codellama.errors import ClusterError, CodeLlamaError

GB = 10**9
LEAST_MEMORY = 0.5 * GB
"""Per rank: a process that has only imported MindSpore holds 0.42 GB (2.10 on CPU)."""
ENOUGH_MEMORY = 2 * GB
LEAST_DISK = 1 * GB
ENOUGH_DISK = 20 * GB
LEAST_FILES = 1024
LEAST_PROCESSES = 4096


def check_table(path: Path | None, table: RankTable | None, fault: CodeLlamaError | None) -> Diagnosis:
    """The rank table, by `codellama rank-table check`."""
    fix = f"codellama rank-table check {path} shows everything."
    if fault is not None:
        return bad(_first_line(fault), fix)
    if table is None:
        return good("none given: one machine")
    errors, warnings = findings(table)
    size = f"{len(table.servers)} server{'s' if len(table.servers) > 1 else ''}, {table.ranks} ranks"
    if errors:
        return bad(f"{size}; {len(errors)} errors, the first: {errors[0]}", fix)
    if warnings:
        return look(f"{size}; {len(warnings)} warnings, the first: {warnings[0]}", fix)
    return good(size)


def check_hosts(table: RankTable | None) -> Diagnosis:
    """Every server of the table resolves, and one of them is this machine."""
    if table is None:
        return good("no rank table to look them up from")
    errors = host_findings(table)
    if errors:
        return bad("; ".join(error.problem.rstrip(".") for error in errors), errors[0].fix)
    here = [host for host in table.hosts if is_local(host)]
    if not here:
        return look(
            f"none of {', '.join(table.hosts)} is this machine", "run the doctor on each machine of the table, or correct the table."
        )
    return good(f"all {len(table.hosts)} resolve, this machine is {here[0]}")


def check_shared_disk(table: RankTable | None, output_dir: Path) -> Diagnosis:
    """With several servers, whether they see one `output_dir`."""
    disk = disk_of(output_dir)
    where = f"{output_dir} is on {disk.file_system} ({disk.mount_point})"
    if disk.shared:
        return good(f"{where}, shared")
    if table is None or len(table.servers) < 2:
        return good(f"{where}; one machine needs no shared disk")
    fix = f"put output_dir on a shared disk; where it is one already, name it: export {SHARED_PATHS}={disk.mount_point}."
    return look(f"{where}, which the other machines do not see: each keeps the checkpoints of its own ranks", fix)


def check_port(table: RankTable | None, port: int) -> Diagnosis:
    """The scheduler can listen."""
    if not 1 <= port <= 65535:
        return bad(f"port {port} does not exist", "give a port from 1024 to 65535.")
    host = table.hosts[0] if table is not None else "127.0.0.1"
    if not is_local(host):
        return good(f"the scheduler runs on {host}, not here")
    try:
        require_free(Address(host, port))
    except ClusterError as error:
        if table is None or len(table.hosts) == 1:
            return look(error.problem, "nothing, when the job names no port: it takes the next free one.")
        return bad(error.problem, f"end the job that holds it, or give another port: codellama launch {error.fix}")
    return good(f"{port} of {host} is free")


def check_memory(table: RankTable | None) -> Diagnosis:
    """Memory for the ranks of this machine."""
    room, bound = available_memory()
    ranks = max(1, sum(len(server.devices) for server in table.servers if is_local(server.server_id))) if table is not None else 1
    found = f"{room / GB:.1f} GB free ({bound}) for {ranks} rank{'s' if ranks > 1 else ''}"
    if room < LEAST_MEMORY * ranks:
        return bad(found, f"a rank needs {LEAST_MEMORY / GB:.1f} GB before it holds any model: end other programs, or use fewer ranks.")
    if room < ENOUGH_MEMORY * ranks:
        return look(found, "enough for the tiny model only; `codellama plan` says what a model needs.")
    return good(found)


def check_disk(output_dir: Path) -> Diagnosis:
    """Room for checkpoints."""
    place = existing_part(output_dir)
    room, state = shutil.disk_usage(place), os.statvfs(place)
    found = f"{room.free / GB:.1f} of {room.total / GB:.1f} GB free at {place}"
    if state.f_files and not state.f_favail:
        return bad(f"{found}, but no file can be created: the inodes are used up", "delete files, or choose another output_dir.")
    if room.free < LEAST_DISK:
        return bad(found, "delete old checkpoints, or choose another output_dir.")
    if room.free < ENOUGH_DISK:
        return look(found, "a checkpoint of 7b with its optimizer state in float32 takes 81 GB; the tiny model's fit.")
    return good(found)


def check_output_dir(output_dir: Path) -> Diagnosis:
    """`output_dir` can be written, or created."""
    place = existing_part(output_dir)
    if not place.is_dir():
        return bad(f"{place} is a file", "choose another output_dir.")
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".codellama-doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return bad(f"{place} cannot be written: {error.strerror}", "choose another output_dir, or give yourself the right to write.")
    return good(f"{place} can be written" if place == output_dir.absolute() else f"can be created in {place}")


def check_locale() -> Diagnosis:
    """Text files are read as UTF-8."""
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") == "utf8" and sys.getfilesystemencoding() == "utf-8":
        return good(encoding)
    return look(
        f"{encoding}, files named in {sys.getfilesystemencoding()}",
        "export PYTHONUTF8=1 (or LC_ALL=C.UTF-8): output with other letters would fail.",
    )


def check_limits() -> Diagnosis:
    """Open files and processes per user."""
    files, processes = resource.getrlimit(resource.RLIMIT_NOFILE)[0], resource.getrlimit(resource.RLIMIT_NPROC)[0]
    found = f"{_limit(files)} open files, {_limit(processes)} processes"
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        return look(found, "ulimit -n 65535: connections between ranks, shards and data files are all open files.")
    if processes != resource.RLIM_INFINITY and processes < LEAST_PROCESSES:
        return look(found, "ulimit -u 65535: every rank starts tens of threads.")
    return good(found)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _first_line(error: CodeLlamaError) -> str:
    """One finding, or the first of several."""
    errors = getattr(error, "errors", (error,))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{errors[0]}{more}"
