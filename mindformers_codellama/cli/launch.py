"""`codellama launch`: one command as several ranks, here and on other machines."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mindformers_codellama.cluster.environment import DEFAULT_PORT, DEFAULT_WAIT, Job, rank_variables, scheduler_variables
from mindformers_codellama.cluster.launch_address import parse_address
from mindformers_codellama.cluster.launch_job import Order
from mindformers_codellama.cluster.launch_job import run as run_job
from mindformers_codellama.cluster.launch_place import Request, parse_devices, place
from mindformers_codellama.cluster.launch_ranks import SCHEDULER
from mindformers_codellama.cluster.launch_show import DEFAULT_PATTERN, Logs
from mindformers_codellama.cluster.rank_table import RankTable
from mindformers_codellama.cluster.rank_table_check import findings
from mindformers_codellama.cluster.rank_table_read import read_rank_table
from mindformers_codellama.errors import ConfigError, raise_all
from mindformers_codellama.runtime.cores import usable_cores

logger = logging.getLogger(__name__)

DEVICES = ("CPU", "Ascend")
NPU = Path("/dev/davinci_manager")
"""Exists where Ascend's driver is loaded."""

EXAMPLES = """examples:
  codellama launch --ranks 4 -- run --config CONFIG --use_parallel True --run_mode train
  codellama launch --rank-table hccl_8p.json --max-restarts 3 -- finetune CONFIG
  codellama launch --ranks 2 -- python my_program.py --with its --own flags
two machines, the same table on both, each command on its machine:
  codellama launch --rank-table hccl_2s_16p.json -- train CONFIG
  codellama launch --rank-table hccl_2s_16p.json -- train CONFIG
see docs/clusters.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which ranks, where they meet, logs, faults; then the command."""
    ranks = parser.add_argument_group("which ranks run here")
    ranks.add_argument("--rank-table", type=Path, metavar="FILE", help="JSON of `codellama rank-table make` or hccl_tools.py")
    ranks.add_argument("--ranks", type=_count, metavar="N", help="ranks of all machines together; without a rank table")
    ranks.add_argument("--devices", metavar="[a,b]", help="devices a to b-1; with --rank-size, ranks a to b-1 of the job")
    ranks.add_argument("--rank-size", type=_count, metavar="N", help="ranks of all machines together, for --devices")
    ranks.add_argument("--server-ip", default="", metavar="ADDRESS", help="which server of the rank table this machine is")
    ranks.add_argument("--nodes", type=_count, metavar="N", help="machines of the job")
    ranks.add_argument("--node-rank", type=_number, metavar="I", help="which of them this is, from 0")
    meeting = parser.add_argument_group("where they meet")
    meeting.add_argument("--master", metavar="HOST:PORT", help=f"scheduler (the rank table's first server, port {DEFAULT_PORT})")
    meeting.add_argument(
        "--timeout", type=_count, default=DEFAULT_WAIT, metavar="S", help="seconds ranks wait for one another to join (%(default)s)"
    )
    meeting.add_argument("--device-target", choices=DEVICES, help="default: context.device_target of the configuration")
    logs = parser.add_argument_group("logs and faults")
    logs.add_argument("--log-dir", type=Path, metavar="DIR", help="default: LOG_MF_PATH of the environment, or output/log")
    logs.add_argument("--log-file", default=DEFAULT_PATTERN, metavar="NAME", help="a rank's log in it (%(default)s)")
    logs.add_argument(
        "--max-restarts", type=_number, default=0, metavar="N", help="start again after a failure, from the last checkpoint (%(default)s)"
    )
    logs.add_argument("--grace", type=float, default=10.0, metavar="S", help="seconds from SIGTERM to SIGKILL (%(default)s)")
    logs.add_argument("--dry-run", action="store_true", help="say what would be started, and stop")
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="run, train, finetune, evaluate, predict, or a program"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check everything that all ranks would find alike, then start them; the exit code of the first that fails."""
    from mindformers_codellama.cli.launch_command import require_ranks, understand

    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    with _quiet():  # the ranks say the same
        command = understand(words)
    device = arguments.device_target or command.device_target or ("Ascend" if NPU.exists() else "CPU")
    job = place(_request(arguments, device))
    if command.config is not None:
        require_ranks(command.config, job.ranks)
    logs = Logs(_log_folder(arguments), arguments.log_file)
    if "{rank}" not in logs.pattern:
        raise ConfigError("--log-file", f"got {logs.pattern!r}: every rank needs its own.", fix=f"for example {DEFAULT_PATTERN}.")
    if arguments.dry_run:
        print("\n".join(outline(job, command.words, logs)))
        return 0
    tell(heading(job, logs))
    return run_job(
        Order(
            job=job,
            command=command.words,
            resumed=partial(command.resumed, job=job),
            logs=logs,
            tell=tell,
            max_restarts=arguments.max_restarts,
            grace=arguments.grace,
        )
    )


def heading(job: Job, logs: Logs) -> str:
    """What is about to start, in one line."""
    numbers = [place.rank for place in job.local]
    here = f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {numbers[0]} to {numbers[-1]}"
    meeting = f"rank table {job.rank_table}" if job.passes_rank_table else f"scheduler {job.master}"
    return f"{here} of {job.ranks} on {job.device_target}, {meeting}, logs {logs.folder / logs.pattern.replace('{rank}', 'N')}"


def outline(job: Job, words: tuple[str, ...], logs: Logs) -> list[str]:
    """Every process with its variables, as a shell would start it."""
    lines = [heading(job, logs)]
    if job.has_scheduler:
        lines.append(f"scheduler: {_shell(scheduler_variables(job), SCHEDULER)} > {logs.of(None)}")
    lines += [f"rank {each.rank}: {_shell(rank_variables(job, each), words)} > {logs.of(each.rank)}" for each in job.local]
    return [*lines, "dry run: nothing was started."]


def tell(text: str) -> None:
    """A line on stderr; a terminal that is gone is no reason to fail."""
    with contextlib.suppress(OSError):
        os.write(2, f"codellama launch: {text}\n".encode())


def _request(arguments: argparse.Namespace, device: str) -> Request:
    devices = parse_devices(arguments.devices) if arguments.devices is not None else None
    master = parse_address(arguments.master, default_port=DEFAULT_PORT) if arguments.master else None
    return Request(
        device_target=device,
        table=_table(arguments.rank_table, device) if arguments.rank_table else None,
        table_file=arguments.rank_table,
        ranks=arguments.ranks,
        devices=devices,
        rank_size=arguments.rank_size,
        server_ip=arguments.server_ip,
        nodes=arguments.nodes,
        node_rank=arguments.node_rank,
        master=master,
        wait=arguments.timeout,
        cores=usable_cores() if device == "CPU" else None,
    )


def _table(path: Path, device: str) -> RankTable:
    """The rank table, sound; remarks about it matter where HCCL reads it."""
    table = read_rank_table(path)
    found = findings(table)
    raise_all(found.errors)
    for warning in found.warnings:
        logger.log(logging.WARNING if device == "Ascend" else logging.DEBUG, "%s", warning)
    return table


def _log_folder(arguments: argparse.Namespace) -> Path:
    return arguments.log_dir or Path(os.environ.get("LOG_MF_PATH") or "output/log")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    package = logging.getLogger("mindformers_codellama")
    before = package.level
    package.setLevel(logging.ERROR)
    try:
        yield
    finally:
        package.setLevel(before)


def _shell(variables: dict[str, str], words: tuple[str, ...]) -> str:
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(words)])


def _count(text: str) -> int:
    number = _number(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)
