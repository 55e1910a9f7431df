"""Ranks that a shell starts by hand: one process for each, and rank 0 says where they meet."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from mindformers_codellama.cluster import rank_lock, unlaunched
from mindformers_codellama.cluster.launch_guard import PROC
from mindformers_codellama.errors import ClusterError, CodeLlamaError

OTHER = """
import sys, time
from pathlib import Path
from mindformers_codellama.cluster.rank_lock import only_process
with only_process(1, "job", folder=Path(sys.argv[1])) as held:
    held.note("8200")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that is rank 1 of the job `job` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OTHER), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_rank_is_one_process_until_that_ends(tmp_path, other):
    with (
        pytest.raises(ClusterError, match=rf"rank 1: of the job job runs already: process {other.pid}"),
        rank_lock.only_process(1, "job", folder=tmp_path),
    ):
        pytest.fail("two processes are rank 1")
    assert rank_lock.note_of(1, "job", folder=tmp_path) == "8200"
    with rank_lock.only_process(0, "job", folder=tmp_path), rank_lock.only_process(1, "another", folder=tmp_path):
        pass
    other.kill()
    other.wait()
    assert rank_lock.note_of(1, "job", folder=tmp_path) == "", "what a dead process said does not count"
    with rank_lock.only_process(1, "job", folder=tmp_path):
        pass


DUP = os.dup


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No launcher, locks in a folder of their own, and a scheduler that only waits."""
    for name in (*unlaunched.STARTED_BY, "MS_SCHED_PORT", "MS_SCHED_HOST", "RANK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code = "import sys; from mindformers_codellama.cluster.scheduler_keeper import keep; "
    code += "keep(sys.argv[1], int(sys.argv[2]), command=(sys.executable, '-c', 'import time; time.sleep(60)'))"
    monkeypatch.setattr(unlaunched, "KEEPER", (sys.executable, "-c", code))
    kept = []  # what a process holds until its end is let go at the end of the test
    monkeypatch.setattr(rank_lock.os, "dup", lambda number: kept.append(DUP(number)))
    before = dict(os.environ)
    yield monkeypatch
    for number in kept:
        os.close(number)
    os.environ.clear()
    os.environ.update(before)


def schedulers():
    """Processes in the role of a scheduler that this test started."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"MS_ROLE=MS_SCHED" in variables and f"TMPDIR={os.environ['TMPDIR']}".encode() in variables:
                found.append(entry.name)
    return found


MEETING = """
import os, sys
from mindformers_codellama.cluster import unlaunched
with unlaunched.joined(int(sys.argv[1]), 2, what="export", device=3):
    print(*(os.environ[name] for name in "MS_ROLE MS_WORKER_NUM MS_NODE_ID MS_SCHED_PORT DEVICE_ID".split()), flush=True)
    sys.stdin.read(1)
print("left", flush=True)
sys.stdin.read(1)
"""


def test_the_others_meet_where_rank_0_says_and_the_scheduler_ends_after_the_last(alone):
    code = MEETING.replace("with unl", f"unlaunched.KEEPER = {unlaunched.KEEPER!r}\nwith unl")
    words = [sys.executable, "-c", code]
    started = [subprocess.Popen([*words, rank], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for rank in ("1", "0")]
    try:
        said = {rank: process.stdout.readline().split() for rank, process in zip((1, 0), started, strict=True)}
        assert said[0][:3] == ["MS_WORKER", "2", "0"]
        assert said[1] == ["MS_WORKER", "2", "1", said[0][3], "3"]
        started[1].communicate("xx")  # rank 0 leaves the job and ends
        started[0].stdin.write("x")
        started[0].stdin.flush()
        assert started[0].stdout.readline() == "left\n"
        time.sleep(1)
        assert len(schedulers()) == 2, "the keeper and what it keeps are there while a rank is still ending"
        started[0].kill()
        started[0].wait()
        until = time.monotonic() + 20
        while schedulers() and time.monotonic() < until:
            time.sleep(0.05)
        assert schedulers() == []
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_rank_whose_rank_0_does_not_come_gives_up(alone):
    alone.setattr(unlaunched, "MEET_SECONDS", 0.2)
    with pytest.raises(ClusterError, match="rank 0: did not come within"), unlaunched.joined(1, 2, what="export"):
        pytest.fail("there is nobody to join")


def test_a_launched_rank_stays_where_it_was_placed(alone):
    alone.setenv("MS_ROLE", "MS_WORKER")
    alone.setenv("MS_SCHED_PORT", "9100")
    before = dict(os.environ)
    with unlaunched.joined(0, 2, what="export"):
        assert dict(os.environ) == before
        with (
            pytest.raises(ClusterError, match=r"rank 0: of the job 127\.0\.0\.1:9100 runs already"),
            unlaunched.joined(0, 2, what="export"),
        ):
            pytest.fail("two processes are rank 0")


def test_a_port_that_is_none_is_refused(alone):
    alone.setenv("MS_SCHED_PORT", "eight")
    with pytest.raises(CodeLlamaError, match="MS_SCHED_PORT: got 'eight'"), unlaunched.joined(1, 2, what="export"):
        pytest.fail("no port")
