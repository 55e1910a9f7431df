"""Real MindSpore ranks through `codellama launch`: they meet, and one that is killed ends the job."""

import json
import os
import signal
import time

import pytest
from launch_machine import JOIN_SECONDS, gone, launch, logs, rank_pids
from ranks import free_port


def write_table(path, *servers):
    """servers: (host, ranks)."""
    listed, rank = [], 0
    for host, count in servers:
        devices = [{"device_id": str(i), "device_ip": f"192.0.2.{rank + i + 1}", "rank_id": str(rank + i)} for i in range(count)]
        listed.append({"server_id": host, "device": devices, "host_nic_ip": "reserve"})
        rank += count
    path.write_text(json.dumps({"version": "1.0", "server_count": str(len(listed)), "server_list": listed, "status": "completed"}))
    return str(path)


def test_ranks_of_a_table_meet(tmp_path):
    table = write_table(tmp_path / "t.json", ("127.0.0.1", 2))
    job = launch(tmp_path, "--rank-table", table, "--devices", "[0,2]", "--master", f"127.0.0.1:{free_port()}")
    out, errors = job.communicate(timeout=JOIN_SECONDS)
    assert job.returncode == 0, errors + logs(tmp_path)
    assert "rank 0 sum 3" in out
    assert "rank 1 sum 3" not in out
    assert "rank 1 sum 3" in (tmp_path / "output/log/rank_1/mindformer.log").read_text()
    assert (tmp_path / "output/log/scheduler/mindformer.log").exists()


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_ends_the_job_and_is_named(tmp_path, victim):
    job = launch(tmp_path, "--ranks", "3", "--master", f"127.0.0.1:{free_port()}", steps=1000)
    pids = rank_pids(tmp_path, 3)
    os.kill(pids[victim], signal.SIGKILL)
    start = time.monotonic()
    _, errors = job.communicate(timeout=90)
    assert time.monotonic() - start < 45
    assert job.returncode == 1
    assert f"rank {victim} ended first, by SIGKILL (signal 9)" in errors
    assert gone(pids, 0)


def test_halves_of_a_job_started_apart_meet_after_a_restart_too(tmp_path):
    """Two launchers with two addresses of one machine; both attempts start on the port after the last."""
    table = write_table(tmp_path / "t.json", ("127.0.0.1", 1), ("127.0.0.2", 1))
    port = free_port()
    flags = ["--rank-table", table, "--rank-size", "2", "--master", f"127.0.0.1:{port}", "--max-restarts", "1", "--grace", "1"]
    first = launch(tmp_path, "--devices", "[0,1]", *flags, steps=75)
    second = launch(tmp_path, "--devices", "[1,2]", *flags, steps=75)
    try:
        pids = rank_pids(tmp_path, 2)
        (tmp_path / "0.pid").unlink()
        (tmp_path / "1.pid").unlink()
        os.kill(pids[1], signal.SIGKILL)
        again = rank_pids(tmp_path, 2)
        assert not set(pids) & set(again)
        results = [job.communicate(timeout=JOIN_SECONDS) for job in (first, second)]
    finally:
        for job in (first, second):
            job.kill()
    assert [first.returncode, second.returncode] == [0, 0], logs(tmp_path)
    assert f"restart 1 of 1, port {port + 1}, from the beginning." in results[0][1]
    assert "rank 1 ended first, by SIGKILL" in results[1][1]
    assert "rank 1 ended first" not in results[0][1], "the first half has only seen its own end"
