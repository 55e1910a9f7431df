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
with only_process(1, "job", folder=Path(sys.argv[1])) as note:
    note("8200")
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


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No launcher, locks in a folder of their own, and a scheduler that only waits."""
    for name in (*unlaunched.STARTED_BY, "MS_SCHED_PORT", "MS_SCHED_HOST", "RANK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(unlaunched, "SCHEDULER", (sys.executable, "-c", "import time; time.sleep(60)"))
    before = dict(os.environ)
    yield monkeypatch
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


def stopped_after_meeting():
    """Rank 0 and, in the same process, rank 1 of one job; then rank 0 is stopped."""
    with unlaunched.joined(0, 2, what="export"):
        assert (os.environ["MS_ROLE"], os.environ["MS_WORKER_NUM"], os.environ["MS_NODE_ID"]) == ("MS_WORKER", "2", "0")
        port = os.environ["MS_SCHED_PORT"]
        assert len(schedulers()) == 1
        for name in ("MS_ROLE", "MS_SCHED_PORT", "MS_SCHED_HOST"):
            del os.environ[name]
        with unlaunched.joined(1, 2, what="export", device=3):
            assert (os.environ["MS_NODE_ID"], os.environ["MS_SCHED_PORT"], os.environ["DEVICE_ID"]) == ("1", port, "3")
        raise KeyboardInterrupt


def test_the_others_meet_where_rank_0_says(alone):
    with pytest.raises(KeyboardInterrupt):
        stopped_after_meeting()
    until = time.monotonic() + 10
    while schedulers() and time.monotonic() < until:
        time.sleep(0.05)
    assert schedulers() == [], "a stopped rank 0 takes its scheduler with it"


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
