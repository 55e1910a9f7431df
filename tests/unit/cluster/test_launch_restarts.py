"""Restarts after a failure, the scheduler, and the port that two programs want."""

import signal
import subprocess

import pytest
from launch_case import HANG
from ranks_port import free_ports

ATTEMPT = "port = int(os.environ['MS_SCHED_PORT'])\nprint('port', port)\nall_have_started()\n"


def test_restarts_are_announced_and_take_the_next_port(launched):
    launched.port = free_ports(4)[0]
    done = launched.run(ATTEMPT + f"if rank == 1 and port < {launched.port + 2}:\n    sys.exit(7)\ntime.sleep(1)", "--max-restarts", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["port", str(launched.port), "port", str(launched.port + 1), "port", str(launched.port + 2)]
    assert f"restart 1 of 3, port {launched.port + 1}, from the beginning." in done.stderr
    assert f"restart 2 of 3, port {launched.port + 2}, from the beginning." in done.stderr
    assert "restart 3" not in done.stderr
    assert launched.log(1).count("port") == 3, "the logs of earlier attempts are kept"


def test_restarts_come_to_an_end_with_the_code_of_the_last_failure(launched):
    launched.port = free_ports(3)[0]
    done = launched.run(ATTEMPT + f"sys.exit(7 + port - {launched.port})", "--max-restarts", "2", ranks=1)
    assert done.returncode == 9
    assert done.stderr.count("ended first") == 3
    assert not launched.left(0)


def test_a_wrong_configuration_is_not_tried_again(launched):
    done = launched.run("sys.exit(2)", "--max-restarts", "5", ranks=2)
    assert done.returncode == 2
    assert "restart 1" not in done.stderr


def test_ctrl_c_ends_restarts_too(launched):
    process = launched.start(HANG, "--max-restarts", "5", stderr=subprocess.PIPE)
    launched.wait_for_notes(3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"restart 1" not in errors


def test_a_scheduler_that_dies_ends_the_job(launched):
    command = launched.command(HANG)
    command[2] = command[2].replace('("sleep", "600")', '(sys.executable, "-c", "import sys; sys.exit(\'no memory\')")')
    done = subprocess.run(command, env=launched.env, cwd=launched.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the scheduler ended first, with exit code 1" in done.stderr
    assert "  | no memory" in done.stderr
    assert not launched.left(0)


def test_two_jobs_on_one_port(launched, tmp_path):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", launched.port))
        other.listen(1)
        done = launched.run(HANG)
    assert done.returncode == 9
    expected = f"port {launched.port} of 127.0.0.1 is in use; another job? Fix: --master 127.0.0.1:{launched.port + 1}"
    assert expected in done.stderr
    assert not launched.pids()


def test_of_two_jobs_started_at_once_one_has_the_port(launched):
    """The scheduler here never listens, as for its first seconds."""
    first = launched.start(HANG)
    launched.wait_for_notes(3)
    second = launched.run(HANG)
    first.terminate()
    first.wait(20)
    assert second.returncode == 9
    assert f"port {launched.port} of 127.0.0.1 is in use; another job? Fix: --master" in second.stderr
    assert len(launched.pids()) == 3
    assert launched.run("").returncode == 0, "the port is free again"


SLOW_SCHEDULER = (
    """(sys.executable, "-c", "import os, sys, time\\nwhile not os.path.exists('taken'): time.sleep(0.02)\\n"""
    """sys.exit('Traceback')")"""
)


@pytest.mark.parametrize("named", [True, False])
def test_a_port_that_is_taken_before_the_scheduler_listens(launched, named):
    import socket

    command = launched.command("while not os.path.exists('taken'): time.sleep(0.02)\ntime.sleep(0.5)" if named else "time.sleep(1)")
    command[2] = command[2].replace('("sleep", "600")', SLOW_SCHEDULER)
    if not named:  # the default port is not for tests
        at = command.index("--master")
        command[at : at + 2] = []
        begin = f"from mindformers_codellama.cluster import launch_place\nlaunch_place.DEFAULT_PORT = {launched.port}\n"
        command[2] = begin + command[2].replace("launch_job.SETTLE", "launch_job.MOVES = 1\nlaunch_job.SETTLE")
    job = subprocess.Popen(command, env=launched.env, cwd=launched.folder, stderr=subprocess.PIPE, text=True)
    launched.wait_for_notes(3)
    with socket.socket() as other:
        other.bind(("127.0.0.1", launched.port))
        other.listen(1)
        (launched.folder / "taken").touch()
        _, errors = job.communicate(timeout=40)
    taken = f"port {launched.port} of 127.0.0.1 was taken by another program while the job started."
    if named:
        assert job.returncode == 9
        assert taken in errors
        assert "Traceback" not in errors
    else:
        assert f"port {launched.port} was taken by another program while the job started; trying port" in errors
        assert "the scheduler ended first, with exit code 1" in errors, "the second time nobody has the port"
    assert not launched.left(0)
