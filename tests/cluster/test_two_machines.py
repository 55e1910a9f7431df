"""Two "machines": network namespaces with addresses of their own, each starting its half from one two-server table."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from launch_machine import JOIN_SECONDS, gone, launch, logs, rank_pids
from test_launch_cluster import write_table


def ip(*words: str) -> str:
    """Run iproute2; skip the test where that is not possible."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)  # noqa: S607
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclass
class Machine:
    """One namespace."""

    name: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """Words before a command that runs it there."""
        return ("ip", "netns", "exec", self.name)


@pytest.fixture
def machines():
    """Two namespaces joined by a cable, and nothing else; always removed with everything that runs in them."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    names = [f"cl{os.getpid()}{letter}" for letter in "ab"]
    try:
        ip("netns", "add", names[0])
    except (FileNotFoundError, AssertionError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    made = [Machine(names[0], "10.203.7.1"), Machine(names[1], "10.203.7.2")]
    try:
        ip("netns", "add", names[1])
        ip("link", "add", f"{names[0]}v", "netns", names[0], "type", "veth", "peer", "name", f"{names[1]}v", "netns", names[1])
        for machine in made:
            ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", f"{machine.name}v")
            ip("-n", machine.name, "link", "set", "lo", "up")
            ip("-n", machine.name, "link", "set", f"{machine.name}v", "up")
        yield made
    finally:
        for name in names:
            for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split():  # noqa: S607
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)  # noqa: S607


def start(folder: Path, machines: list[Machine], *, steps: int = 0, order=(0, 1)) -> list[subprocess.Popen]:
    """Each machine's half, all from the same table; each machine has its own logs."""
    table = write_table(folder / "hccl_2s_4p.json", *((machines[index].address, 2) for index in order))
    flags = ["--rank-table", table, "--timeout", "120"]
    return [
        launch(folder, *flags, "--log-dir", str(folder / f"log_{index}"), steps=steps, before=machine.inside)
        for index, machine in enumerate(machines)
    ]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order of addresses", "in reverse"])
def test_four_ranks_on_two_machines_add_up(tmp_path, machines, order):
    jobs = start(tmp_path, machines, order=order)
    results = [job.communicate(timeout=JOIN_SECONDS) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], str(results) + logs(tmp_path)
    for index in (0, 1):
        for rank in range(2):
            rank += 2 * order.index(index)
            assert f"rank {rank} sum 15" in (tmp_path / f"log_{index}/rank_{rank}/mindformer.log").read_text()
    assert f"scheduler {machines[order[0]].address}:8118" in results[0][1]


@pytest.mark.parametrize("victim", [0, 1], ids=["with the scheduler", "without"])
def test_a_machine_that_dies_ends_the_other_within_90_seconds(tmp_path, machines, victim):
    jobs = start(tmp_path, machines, steps=2000)
    pids = rank_pids(tmp_path, 4)
    for pid in ip("netns", "pids", machines[victim].name).split():
        os.kill(int(pid), signal.SIGKILL)
    began = time.monotonic()
    _, errors = jobs[1 - victim].communicate(timeout=120)
    seconds = time.monotonic() - began
    assert seconds < 90, errors
    assert jobs[1 - victim].returncode not in (0, None), errors
    survivors = {0: "2, 3", 1: "0, 1"}[victim]
    gone_ranks = {0: "0, 1", 1: "2, 3"}[victim]
    first = [f"rank {rank} ended first" in errors for rank in survivors.split(", ")] + ["the scheduler ended first" in errors]
    assert any(first), errors
    assert f"ranks {gone_ranks} are on other machines; if one of them ended earlier, the log there says why." in errors
    assert gone(pids, 0)
