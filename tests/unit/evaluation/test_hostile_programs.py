"""Programs that mean harm, or mean to pass without solving anything: none harms, none passes.

`RIGHT` behind hostile code shows where the harm itself would have been: the program goes on and answers rightly, so a verdict of
`passed` says that what the program tried did not work, and the tests look at what it tried from outside.
"""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from eval_case import ADD, PROBLEMS, RIGHT, WRONG

from mindformers_codellama.evaluation.judge import Stopped, judge
from mindformers_codellama.evaluation.sandbox import Limits

LIMITS = Limits(cpu_seconds=1, wall_seconds=20, memory_mib=512, file_mib=4)
SLEEPY = Limits(cpu_seconds=1, wall_seconds=2)
FAKES = {
    "exit_0": "    import os\n    os._exit(0)\n",
    "sys_exit": "    import sys\n    sys.exit(0)\n",
    "exit_at_load": "    pass\nimport os\nos._exit(0)\n",
    "marker": "    print('passed')\n    print('{\"result\": \"passed\"}')\n",
    "marker_on_every_pipe": "    import os\n    for n in range(64):\n        try:\n"
    '            os.write(n, b\'{"result": "passed"}\' * 9)\n        except OSError:\n            pass\n    os._exit(0)\n',
    "equal_to_all": "    class Yes:\n        __eq__ = lambda *_: True\n    return Yes()\n",
    "equal_number": "    class Yes(int):\n        __eq__ = lambda *_: True\n    return Yes(7)\n",
    "equal_in_a_list": "    class Yes(list):\n        __eq__ = lambda *_: True\n    return Yes()\n",
    "builtins": "    import builtins\n    builtins.AssertionError = builtins.Exception = None\n"
    "    import json\n    json.dumps = lambda *_: '0'\n",
    "the_runner": "    import sys\n    main = sys.modules['__main__']\n    main.pack = main.send = lambda *_: None\n",
    "the_frames": "    import sys\n    frames = sys._getframe(1).f_globals\n    frames['pack'] = lambda value: {'result': 'passed'}\n",
    "atexit": "    import atexit, os\n    atexit.register(lambda: os._exit(0))\n    raise SystemExit(0)\n",
    "thread": "    import threading, os\n    threading.Thread(target=lambda: os._exit(0)).start()\n    import time\n    time.sleep(9)\n",
    "fork": "    import os\n    if os.fork():\n        os._exit(0)\n    return 'child'\n",
    "signal_to_group": "    import os\n    os.killpg(0, 9)\n",
    "exception_of_tests": "    raise type('AssertionError', (BaseException,), {})('passed')\n",
    "answers_by_inspect": "    import inspect\n    seen = [inspect.getsource(f.frame) for f in inspect.stack()[1:]]\n"
    "    return 3 if any('== 3' in s for s in seen) else 0\n",
    "garbage": "    import sys\n    sys._getframe(1).f_locals['answers'].write(b'x' * 100)\n",
    "endless_answer": "    import sys\n    pipe = sys._getframe(1).f_locals['answers']\n"
    "    while True:\n        pipe.write(bytes(65536))\n",
}


@pytest.mark.parametrize("name", FAKES)
def test_nothing_but_right_values_passes(sandbox, name):
    verdict = judge(ADD, FAKES[name], sandbox, SLEEPY if name in ("thread", "the_runner", "endless_answer") else LIMITS)
    assert verdict.result.startswith(("failed: ", "timed out")), verdict


def test_right_and_wrong_answers_are_told_apart(sandbox):
    assert judge(ADD, RIGHT, sandbox, LIMITS).result == "passed"
    assert judge(ADD, WRONG, sandbox, LIMITS).result == "failed: AssertionError"
    assert judge(ADD, "    return a +\n", sandbox, LIMITS).result.startswith("failed: SyntaxError")
    assert judge(ADD, "    return (lambda: 3)\n", sandbox, LIMITS).result.endswith("is of type function, which is no plain data")


@pytest.mark.parametrize("task", PROBLEMS.tasks)
def test_helpers_exceptions_and_changed_arguments_cross(sandbox, task):
    problem = PROBLEMS.tasks[task]
    assert judge(problem, problem.canonical_solution, sandbox, LIMITS).result == "passed"
    assert not judge(problem, "    return None\n", sandbox, LIMITS).passed


@pytest.mark.parametrize(
    ("limits", "body"),
    [
        (LIMITS, "    while True:\n        pass\n"),
        (SLEEPY, "    import time\n    time.sleep(600)\n"),
        (LIMITS, "    import signal\n    signal.signal(signal.SIGXCPU, signal.SIG_IGN)\n    while True:\n        pass\n"),
    ],
    ids=["cpu", "sleep", "deaf"],
)
def test_endless_programs_run_out_of_time(sandbox, limits, body):
    assert judge(ADD, body, sandbox, limits).result == "timed out"


def test_a_memory_bomb_is_stopped(sandbox):
    assert judge(ADD, "    return len(bytearray(1 << 30))\n", sandbox, LIMITS).result == "failed: MemoryError"


def test_a_fork_bomb_finds_no_room_and_leaves_nothing_behind(sandbox):
    bomb = "    import os, time\n    made = 0\n    try:\n        while made < 400:\n            made += 1\n            if not os.fork():\n"
    bomb += "                time.sleep(300)\n    except OSError:\n        pass\n    assert made < 20\n"
    assert judge(ADD, bomb + RIGHT, sandbox, LIMITS).result == "passed"
    endless = "    import os\n    while True:\n        try:\n            os.fork()\n        except OSError:\n            pass\n"
    assert judge(ADD, endless, sandbox, SLEEPY).result == "timed out"
    assert not left_over()


def left_over() -> str:
    """Processes of programs that still run, once they have had time to be buried."""
    for _ in range(50):
        found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        lines = [line for line in found.splitlines() if "/inside/program.py" in line or "/inside/checker.py" in line]
        if not lines:
            return ""
        time.sleep(0.1)
    return "\n".join(lines)


def test_files_are_not_seen_changed_or_deleted_and_the_own_folder_vanishes(sandbox, tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("secret", encoding="utf-8")
    tmp_path.chmod(0o777)
    kept.chmod(0o666)
    body = f"    import os, shutil\n    assert not os.path.exists({str(kept)!r})\n"
    body += "    for path in ('/', '/inside', os.path.dirname(os.__file__) + '/json', '/dev', '/etc'):\n"
    body += "        shutil.rmtree(path if path != '/' else '/usr/bin', ignore_errors=True)\n"
    body += "        try:\n            open(path + '/new', 'w')\n        except OSError:\n"
    body += "            continue\n        raise AssertionError(path)\n"
    body += "    open('/tmp/codellama_left', 'w').write('x')\n"
    assert judge(ADD, body + RIGHT, sandbox, LIMITS).result == "passed"
    assert kept.read_text(encoding="utf-8") == "secret"
    assert (Path(os.__file__).parent / "json" / "__init__.py").exists()
    assert not Path("/tmp/codellama_left").exists()


def test_large_files_are_cut_and_the_own_folder_is_small(sandbox):
    body = "    import signal\n    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n    written = 0\n    for n in range(40):\n        try:\n"
    body += "            f = open(f'/tmp/{n}', 'wb')\n            while True:\n                written += f.write(bytes(1 << 18))\n"
    body += "                f.flush()\n        except OSError:\n            pass\n    assert written < 40 << 20, written\n"
    assert judge(ADD, body + RIGHT, sandbox, LIMITS).result == "passed"


def test_there_is_no_network(sandbox):
    with subprocess.Popen(["true"]):  # a process that the program could see
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            body = f"    import socket\n    try:\n        socket.create_connection(('127.0.0.1', {port}), timeout=1)\n"
            body += "    except OSError:\n        pass\n    else:\n        raise AssertionError\n"
            assert judge(ADD, body + RIGHT, sandbox, LIMITS).result == "passed"


def test_no_other_process_can_be_reached(sandbox):
    body = (
        f"    import os\n    for pid in (os.getppid(), 1, -1, {os.getpid()}, {os.getppid()}):\n        try:\n            os.kill(pid, 9)\n"
    )
    body += "        except OSError:\n            pass\n"
    judge(ADD, body, sandbox, LIMITS)  # it may end itself; this process is still here
    assert judge(ADD, RIGHT, sandbox, LIMITS).passed


def test_a_program_has_no_rights_and_no_environment(sandbox, monkeypatch):
    monkeypatch.setenv("CODELLAMA_SECRET", "x")
    body = "    import os\n    assert 'CODELLAMA_SECRET' not in os.environ\n    assert os.getuid() != 0 or open('/x', 'w')\n    try:\n"
    body += "        os.setuid(0)\n    except OSError:\n        pass\n    else:\n        raise AssertionError\n"
    if os.getuid() == 0:
        assert judge(ADD, body + RIGHT, sandbox, LIMITS).result == "passed"
    assert judge(ADD, body.split("    try:")[0].split("    assert os.getuid")[0] + RIGHT, sandbox, LIMITS).result == "passed"


def test_a_flood_of_output_goes_nowhere(sandbox):
    body = "    import os\n    for _ in range(200):\n        os.write(1, bytes(65536))\n        os.write(2, bytes(65536))\n"
    assert judge(ADD, body + RIGHT, sandbox, LIMITS).result == "passed"


@pytest.mark.parametrize(
    "call",
    [
        "c.unshare(0x10000000)",
        "c.shmget(0, 1 << 20, 0o1600)",
        "c.memfd_create(b'x', 0)",
        "c.ptrace(0, 0, 0, 0)",
        "c.mount(b't', b'/tmp', b'tmpfs', 0, 0)",
    ],
)
def test_memory_of_no_process_new_namespaces_and_other_processes_are_refused(sandbox, call):
    body = f"    import ctypes\n    c = ctypes.CDLL(None, use_errno=True)\n    assert {call} == -1\n    assert ctypes.get_errno() == 1\n"
    assert judge(ADD, body + RIGHT, sandbox, LIMITS).result == "passed"


def test_threads_and_children_work_below_the_limit(sandbox):
    body = "    import os, threading\n    seen = []\n    t = threading.Thread(target=seen.append, args=(1,))\n    t.start()\n    t.join()\n"
    body += "    pid = os.fork()\n    if not pid:\n        os._exit(3)\n"
    body += "    assert seen and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3\n"
    assert judge(ADD, body + RIGHT, sandbox, LIMITS).result == "passed"


def test_judging_that_is_stopped_leaves_nothing_behind(sandbox):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        judge(ADD, "    import time\n    time.sleep(600)\n", sandbox, Limits(wall_seconds=600), stop=stop)
    assert not left_over()
