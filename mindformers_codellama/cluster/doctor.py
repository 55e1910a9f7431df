"""`codellama doctor`: is this machine ready for a job?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mindformers_codellama.cluster import doctor_machine as machine
from mindformers_codellama.cluster import doctor_software as software
from mindformers_codellama.cluster.diagnosis import Diagnosis, bad
from mindformers_codellama.cluster.rank_table import RankTable
from mindformers_codellama.cluster.rank_table_read import read_rank_table
from mindformers_codellama.errors import CodeLlamaError


class Answer(NamedTuple):
    """The diagnosis of one check."""

    name: str
    diagnosis: Diagnosis


def examine(*, rank_table: Path | None, output_dir: Path, port: int) -> Iterator[Answer]:
    """Every check, one answer at a time, in a fixed order. A check that fails itself is an answer too: nothing is raised."""
    table: RankTable | None = None
    fault: CodeLlamaError | None = None
    if rank_table is not None:
        try:
            table = read_rank_table(rank_table)
        except CodeLlamaError as error:
            fault = error
    checks: dict[str, Callable[[], Diagnosis]] = {
        "python": software.check_python,
        "numpy": software.check_numpy,
        "mindspore": software.check_mindspore,
        "msrun": software.check_msrun,
        "cann": software.check_cann,
        "driver": software.check_driver,
        "rank table": lambda: machine.check_table(rank_table, table, fault),
        "hosts": lambda: machine.check_hosts(table),
        "port": lambda: machine.check_port(table, port),
        "output_dir": lambda: machine.check_output_dir(output_dir),
        "shared disk": lambda: machine.check_shared_disk(table, output_dir),
        "disk": lambda: machine.check_disk(output_dir),
        "memory": lambda: machine.check_memory(table),
        "limits": machine.check_limits,
        "locale": machine.check_locale,
    }
    for name, check in checks.items():
        try:
            yield Answer(name, check())
        except Exception as error:  # the doctor is asked when something is broken: it must reach its end
            yield Answer(
                name, bad(f"the check itself failed: {type(error).__name__}: {error}", "report this line: it is a fault of the doctor.")
            )
