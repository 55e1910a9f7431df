"""Ranks that fail, hang or refuse to end, and launchers that are stopped or killed: nothing is left, and the first failure is told."""

import os
import pty
import select
import signal
import subprocess
import time

import pytest
from launch_case import HANG

STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"], start_new_session=True)
note(child.pid)
time.sleep(600)
"""
"""Ignores SIGTERM, and has a child in a session of its own."""


def test_all_ranks_end_well(launched):
    done = launched.run("print('rank', rank, 'of', os.environ['RANK_SIZE'])")
    assert done.returncode == 0
    assert done.stdout == "rank 0 of 3\n", "the others only log"
    assert [launched.log(rank) for rank in range(3)] == [f"rank {rank} of 3\n" for rank in range(3)]
    assert not launched.left(0)


def test_one_rank_fails_the_others_are_stopped_and_its_last_lines_are_shown(launched):
    body = "all_have_started()\nif rank == 1:\n    print('x' * 5, 'the reason'); sys.exit(7)\n" + HANG
    done = launched.run(body)
    assert done.returncode == 7
    assert "rank 1 ended first, with exit code 7, " in done.stderr
    assert f"its log: {launched.folder}/log/rank_1/mindformer.log" in done.stderr
    assert "  | xxxxx the reason" in done.stderr
    assert "stopped: ranks 0, 2." in done.stderr
    assert not launched.left(0)


def test_a_killed_rank_is_named_with_its_signal(launched):
    done = launched.run("all_have_started()\nif rank == 2:\n    os.kill(os.getpid(), 9)\n" + HANG)
    assert done.returncode == 1
    assert "rank 2 ended first, by SIGKILL (signal 9), " in done.stderr
    assert "SIGKILL comes from outside" in done.stderr
    assert not launched.left(0)


@pytest.mark.parametrize("first", [0, 1], ids=["rank 0 first", "rank 1 first"])
def test_an_error_that_every_rank_finds_is_shown_once(launched, first):
    body = f"time.sleep(0 if rank == {first} else 0.2)\nprint('codellama: error: x.ckpt: is damaged.', file=sys.stderr); sys.exit(3)"
    done = launched.run(body)
    assert done.returncode == 3
    assert (done.stdout + done.stderr).count("x.ckpt: is damaged.") == 1


def test_a_quiet_failure_is_explained_by_the_rank_that_tells(launched):
    body = "time.sleep(0.3 * (rank == 0))\nif rank == 0:\n    print('codellama: error: seen by all', file=sys.stderr)\nsys.exit(3)"
    done = launched.run(body, ranks=2)
    assert done.returncode == 3
    assert done.stderr.count("seen by all") == 1
    assert "rank 1 ended first" in done.stderr


def test_ranks_that_ignore_sigterm_and_hide_children_are_killed(launched):
    start = time.monotonic()
    done = launched.run("if rank == 1:\n    time.sleep(1); sys.exit(5)\n" + STUBBORN, "--grace", "0.5")
    assert done.returncode == 5
    assert len(launched.pids()) == 5, "3 ranks, 2 children"
    assert not launched.left(0)
    assert time.monotonic() - start < 20


def test_children_of_ranks_that_ended_well_do_not_stay(launched):
    done = launched.run("child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL, start_new_session=True); note(child.pid)")
    assert done.returncode == 0
    assert len(launched.pids()) == 6
    assert not launched.left(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_stopped_launcher_stops_every_rank(launched, number):
    process = launched.start(HANG, stderr=subprocess.PIPE)
    launched.wait_for_notes(3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"{number.name}: stopping 3 ranks" in errors.decode()
    assert not launched.left(0)


def test_a_second_ctrl_c_does_not_wait(launched):
    process = launched.start(STUBBORN, "--grace", "60")
    launched.wait_for_notes(6)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert not launched.left(0)


def test_ranks_may_end_in_good_order(launched):
    body = "def end(*_):\n    time.sleep(0.3); print('saved'); sys.exit(0)\nsignal.signal(signal.SIGTERM, end)\nnote(os.getpid())\n" + HANG
    process = launched.start(body)
    launched.wait_for_notes(3)
    time.sleep(0.3)
    process.terminate()
    assert process.wait(20) == 130
    assert [launched.log(rank) for rank in range(3)] == ["saved\n"] * 3


def test_nohup_means_that_a_closed_terminal_changes_nothing(launched):
    process = launched.start("time.sleep(1.5)", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    launched.wait_for_notes(3)
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0


def test_a_killed_launcher_leaves_no_process(launched):
    process = launched.start(STUBBORN)
    launched.wait_for_notes(6)
    process.kill()
    process.wait()
    assert not launched.left(5)


def on_terminal(command, env):
    pid, end = pty.fork()
    if not pid:
        os.execve(command[0], command, env)
    return pid, end


def read_until(end, mark, seconds=30):
    text, until = b"", time.monotonic() + seconds
    while mark not in text and time.monotonic() < until:
        if select.select([end], [], [], 0.2)[0]:
            try:
                text += os.read(end, 65536)
            except OSError:
                break
    return text


def test_ctrl_c_at_a_terminal(launched):
    pid, end = on_terminal(launched.command(HANG), launched.env)
    launched.wait_for_notes(3)
    os.write(end, b"\x03")
    text = read_until(end, b"stopped.")
    assert b"SIGINT: stopping 3 ranks" in text
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert not launched.left(0)


def test_a_closed_terminal_leaves_no_process(launched):
    pid, end = on_terminal(launched.command(STUBBORN, "--grace", "0.5"), launched.env)
    launched.wait_for_notes(6)
    os.close(end)
    assert not launched.left(20)
    os.waitpid(pid, 0)


def test_a_progress_bar_of_rank_0_reaches_the_terminal_unchanged(launched):
    body = (
        "print('terminal', sys.stderr.isatty(), flush=True)\nfor i in range(3):\n    sys.stderr.write(f'\\r{i} of 3'); sys.stderr.flush()\n"
    )
    pid, end = on_terminal(launched.command(body, ranks=1), launched.env)
    text = read_until(end, b"2 of 3")
    os.waitpid(pid, 0)
    os.close(end)
    assert b"terminal True" in text
    assert b"\r0 of 3\r1 of 3\r2 of 3" in text
    assert launched.log(0).encode() == b"terminal True\n\r0 of 3\r1 of 3\r2 of 3".replace(b"\r", b"\n")  # read_text


def test_stdout_and_stderr_of_rank_0_stay_apart_and_are_both_logged(launched):
    done = launched.run("print('answer', flush=True); print('remark', file=sys.stderr)", ranks=1)
    assert done.stdout == "answer\n"
    assert "remark\n" in done.stderr
    assert sorted(launched.log(0).split()) == ["answer", "remark"]


def test_a_reader_that_goes_away_does_not_end_the_job(launched):
    body = "for i in range(2000):\n    print('line', i)\ntime.sleep(0.5)"
    command = launched.command(body, ranks=1)
    shell = ["bash", "-c", '"$@" 2>/dev/null | head -1; exit ${PIPESTATUS[0]}', "-", *command]
    done = subprocess.run(shell, env=launched.env, cwd=launched.folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "line 0\n")
    assert launched.log(0).endswith("line 1999\n")


def test_an_error_of_another_rank_that_rank_0_has_shown_is_not_repeated(launched):
    told = "codellama: error: x.ckpt: is cut short."
    body = f"all_have_started()\nif rank == 1: print('{told}', file=sys.stderr); sys.exit(3)\n"
    body += "print('this rank ends because of an error on rank 1: x.ckpt: is cut short.', file=sys.stderr, flush=True)\ntime.sleep(600)"
    done = launched.run(body)
    assert done.returncode == 3
    assert done.stderr.count("is cut short") == 1


def test_a_program_that_does_not_exist_is_told_before_anything_starts(launched):
    for words in (["nothing.py"], ["python", "nothing.py", "--flag"]):
        command = launched.command("")
        command[command.index("--") + 1 :] = words
        done = subprocess.run(command, env=launched.env, cwd=launched.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr == "codellama: error: nothing.py: does not exist. Fix: give the program's path, from the current folder.\n"


def test_a_log_folder_that_cannot_be_written(launched, tmp_path):
    (tmp_path / "file").write_text("")
    done = launched.run(HANG, "--log-dir", str(tmp_path / "file" / "log"))
    assert done.returncode == 8
    assert "the log cannot be written: Not a directory." in done.stderr
    assert not launched.pids()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_log_folder(launched, tmp_path):
    (tmp_path / "log").mkdir(mode=0o500)
    done = launched.run(HANG)
    assert done.returncode == 8
    assert "the log cannot be written: Permission denied." in done.stderr


def test_the_guard_ends_with_the_launcher(launched):
    body = "children = open(f'/proc/{os.getppid()}/task/{os.getppid()}/children').read().split()\nfor child in children:\n    note(child)"
    launched.run(body, ranks=1)
    assert len(launched.pids()) == 3, "rank, scheduler, guard"
    assert not launched.left(0)
