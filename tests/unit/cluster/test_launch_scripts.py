"""The scripts above `codellama launch`: what each form of their arguments starts, and what a wrong call is answered."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch_case import alive
from ranks_port import free_ports

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "scripts"
CONFIG = "configs/codellama/predict_codellama_tiny.yaml"


def write_table(path, *servers):
    """servers: (host, devices)."""
    import json

    listed, rank = [], 0
    for host, devices in servers:
        entries = []
        for device in devices:
            entries.append({"device_id": str(device), "device_ip": f"192.0.2.{rank + 1}", "rank_id": str(rank)})
            rank += 1
        listed.append({"server_id": host, "device": entries, "host_nic_ip": "reserve"})
    path.write_text(json.dumps({"version": "1.0", "server_count": str(len(listed)), "server_list": listed, "status": "completed"}))
    return str(path)


@pytest.fixture
def four(tmp_path):
    return write_table(tmp_path / "hccl_4p.json", ("127.0.0.1", range(4)))


@pytest.fixture
def two_servers(tmp_path):
    return write_table(tmp_path / "hccl_2s_4p.json", ("127.0.0.1", range(2)), ("127.0.0.2", range(2)))


def call(script, *words, cwd=ROOT, flags="--dry-run", **env):
    environment = {**os.environ, "PYTHON": sys.executable, "CODELLAMA_LAUNCH_FLAGS": flags, **env}
    environment.pop("LOG_MF_PATH", None) if "LOG_MF_PATH" not in env else None
    path = SCRIPTS / script
    given = ["bash", str(path.relative_to(cwd) if path.is_relative_to(cwd) else path), *map(str, words)]
    return subprocess.run(given, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def started(done):
    """Rank to (variables, command, log) of a dry run."""
    assert done.returncode == 0, done.stderr
    found = {}
    for rank, text in re.findall(r"^rank (\d+): (.*)$", done.stdout, re.MULTILINE):
        line, _, log = text.rpartition(" > ")
        words = shlex.split(line)
        start = next(i for i, word in enumerate(words) if "=" not in word)
        found[int(rank)] = (dict(word.split("=", 1) for word in words[:start]), words[start + 1 :], log)
    return found


def more(ranks):
    """Flags that make the tiny configuration one of so many ranks; 3 heads do not divide, so ranks share data."""
    return ["--parallel_config.data_parallel", str(ranks), "--predict_batch_size", str(ranks)]


@pytest.mark.parametrize("cwd", [ROOT, SCRIPTS], ids=["project", "scripts"])
def test_run_distribute_on_one_machine(four, cwd):
    config = CONFIG if cwd == ROOT else f"../{CONFIG}"
    ranks = started(call("run_distribute.sh", four, config, "[0,4]", "predict", r"def f():\n", *more(4), cwd=cwd))
    assert sorted(ranks) == [0, 1, 2, 3]
    for rank, (variables, words, log) in ranks.items():
        assert [variables[name] for name in ("RANK_ID", "DEVICE_ID", "RANK_SIZE", "MS_NODE_ID")] == [str(rank), str(rank), "4", str(rank)]
        assert words[:3] == ["-m", "mindformers_codellama.cli.main", "run"]
        assert os.path.samefile(words[words.index("--config") + 1], ROOT / CONFIG)
        assert words[words.index("--run_mode") + 1] == "predict"
        assert words[words.index("--use_parallel") + 1] == "True"
        assert words[words.index("--predict_data") + 1] == r"def f():\n"
        assert log == str(ROOT / f"output/log/rank_{rank}/mindformer.log")


def test_a_range_that_does_not_start_at_0(tmp_path):
    table = write_table(tmp_path / "t.json", ("127.0.0.1", (4, 5)))
    ranks = started(call("run_distribute.sh", table, CONFIG, "[4,6]", "predict", *more(2)))
    assert [(rank, variables["DEVICE_ID"], variables["RANK_SIZE"]) for rank, (variables, _, _) in ranks.items()] == [
        (0, "4", "2"),
        (1, "5", "2"),
    ]


@pytest.mark.parametrize(("part", "ranks", "has_scheduler"), [("[0,2]", [0, 1], True), ("[2,4]", [2, 3], False)])
def test_run_distribute_on_two_machines(two_servers, part, ranks, has_scheduler):
    done = call("run_distribute.sh", two_servers, CONFIG, part, "predict", "4", "text of 6 arguments", *more(4))
    found = started(done)
    assert list(found) == ranks
    for index, (variables, words, _) in enumerate(found.values()):
        assert (variables["RANK_ID"], variables["DEVICE_ID"], variables["RANK_SIZE"]) == (str(ranks[index]), str(index), "4")
        assert (variables["MS_SCHED_HOST"], variables["MS_WORKER_IP"]) == ("127.0.0.1", "127.0.0.1" if has_scheduler else "127.0.0.2")
        assert words[words.index("--predict_data") + 1] == "text of 6 arguments"
    assert ("scheduler:" in done.stdout) is has_scheduler


def test_five_arguments_are_rank_size_for_training_and_data_for_prediction(two_servers, four, tmp_path):
    done = call("run_distribute.sh", two_servers, "configs/codellama/pretrain_codellama_tiny.yaml", "[2,4]", "train", "4", *more(4)[:2])
    assert list(started(done)) == [2, 3]
    (tmp_path / "32").write_text("a prompt\n")
    words = started(call("run_distribute.sh", four, CONFIG, "[0,4]", "predict", "32", *more(4)))[0][1]
    assert words[words.index("--predict_data") + 1] == "32"
    words = started(call("run_distribute.sh", four, ROOT / CONFIG, "[0,4]", "predict", "32", *more(4), cwd=tmp_path))[0][1]
    assert words[words.index("--predict_data") + 1] == str(tmp_path / "32"), "a file of the current folder"


def test_export_starts_all_ranks(four):
    words = started(call("run_distribute.sh", four, CONFIG, "[0,4]", "export", *more(4)))[3][1]
    assert words[words.index("--run_mode") + 1] == "export"


def test_logs_move(four, tmp_path):
    ranks = started(call("run_distribute.sh", four, ROOT / CONFIG, "[0,4]", "predict", *more(4), cwd=tmp_path, LOG_MF_PATH="here/log"))
    assert ranks[3][2] == str(tmp_path / "here/log/rank_3/mindformer.log")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "4 to 6 arguments are needed, 0 were given"),
        (["{table}", CONFIG, "[0,4]"], "4 to 6 arguments are needed, 3 were given"),
        (["{table}", CONFIG, "[0,4]", "train", "4", "data"], "DATA is for predict alone"),
        (["{table}", CONFIG, "0,4", "train"], "[a,b] is a range without spaces such as [0,8], got '0,4'"),
        (["{table}", CONFIG, "[0,4]", "training"], "STATUS is train, finetune, eval, predict or export, got 'training'"),
        (["{table}", CONFIG, "[0,4]", "train", "x"], "RANK_SIZE is a whole number of at least 1, got 'x'"),
        (["none.json", CONFIG, "[0,4]", "train"], "the rank table none.json does not exist"),
        (["{table}", "none.yaml", "[0,4]", "train"], "the configuration none.yaml does not exist"),
    ],
)
def test_run_distribute_shows_its_usage_and_what_was_wrong(four, words, message):
    done = call("run_distribute.sh", *(word.format(table=four) for word in words))
    assert done.returncode == 2
    assert message in done.stderr
    assert "bash run_distribute.sh RANK_TABLE CONFIG [a,b] STATUS" in done.stderr


def test_what_the_launcher_refuses_comes_through(four):
    done = call("run_distribute.sh", four, CONFIG, "[4,8]", "predict", *more(4))
    assert done.returncode == 2
    assert "[4,8] are devices 4 to 7, but in" in done.stderr
    done = call("run_distribute.sh", four, CONFIG, "[0,4]", "predict", *more(3))
    assert done.returncode == 2
    assert done.stderr.count("3 * 1 * 1 = 3, but there are 4 ranks") == 1


@pytest.fixture
def predict_folder(tmp_path):
    (tmp_path / "weights.ckpt").write_bytes(b"")
    (tmp_path / "predict.yaml").write_text((ROOT / CONFIG).read_text())
    return tmp_path


@pytest.mark.parametrize("own", [True, False])
def test_run_predict(predict_folder, own):
    table = write_table(predict_folder / "t.json", ("127.0.0.1", (4, 5)))
    if own:
        (predict_folder / "predict_custom.py").write_text("")
    done = call("run_predict.sh", Path(table).name, "weights.ckpt", "predict.yaml", "codellama_tiny", 2, 4, cwd=predict_folder)
    for index, (variables, words, log) in started(done).items():
        assert (variables["RANK_ID"], variables["DEVICE_ID"], variables["RANK_SIZE"]) == (str(index), str(4 + index), "2")
        program = "./predict_custom.py" if own else str(ROOT / "scripts/predict_custom.py")
        assert words == [program, "--checkpoint_path", "weights.ckpt", "--yaml_file", "predict.yaml", "--model_type", "codellama_tiny"]
        assert log == f"mindformers_{index}.log"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["t.json", "weights.ckpt", "predict.yaml", "m"], "5 or 6 arguments are needed, 4 were given"),
        (["none.json", "weights.ckpt", "predict.yaml", "m", 2, 0], "the rank table none.json does not exist"),
        (["t.json", "none.ckpt", "predict.yaml", "m", 2, 0], "the checkpoint none.ckpt does not exist"),
        (["t.json", "weights.ckpt", "none.yaml", "m", 2, 0], "the configuration none.yaml does not exist"),
        (["t.json", "weights.ckpt", "predict.yaml", "m", 0, 0], "RANK_SIZE is a whole number of at least 1, got '0'"),
        (["t.json", "weights.ckpt", "predict.yaml", "m", 2, "x"], "START_RANK is a whole number, got 'x'"),
    ],
)
def test_run_predict_shows_its_usage_and_what_was_wrong(predict_folder, words, message):
    write_table(predict_folder / "t.json", ("127.0.0.1", (0, 1)))
    done = call("run_predict.sh", *words, cwd=predict_folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "bash run_predict.sh RANK_TABLE CHECKPOINT YAML MODEL_TYPE RANK_SIZE" in done.stderr


@pytest.mark.parametrize(
    ("words", "ranks", "meeting", "log"),
    [
        ([], range(8), ("127.0.0.1", "8118", "7200"), "output/msrun_log"),
        ([4], range(4), ("127.0.0.1", "8118", "7200"), "output/msrun_log"),
        ([2, 8200, "logs", "True", 60], range(2), ("127.0.0.1", "8200", "60"), "logs"),
        ([4, 2, "127.0.0.2", 8200, 1, "logs", "True", 60], (2, 3), ("127.0.0.2", "8200", "60"), "logs"),
    ],
    ids=["default", "ranks", "one machine", "several machines"],
)
def test_msrun_launcher(words, ranks, meeting, log, tmp_path):
    (tmp_path / "program.py").touch()
    done = call("msrun_launcher.sh", "program.py --text 'two words'", *words, cwd=tmp_path)
    found = started(done)
    assert list(found) == list(ranks)
    for rank, (variables, given, file) in found.items():
        assert tuple(variables[name] for name in ("MS_SCHED_HOST", "MS_SCHED_PORT", "MS_TOPO_TIMEOUT")) == meeting
        assert given == ["program.py", "--text", "two words"]
        assert file == f"{log}/worker_{rank}.log"


def test_msrun_launcher_finds_the_projects_entry_point(tmp_path):
    order = f"run_mindformer.py --config {ROOT / CONFIG} --use_parallel True --parallel_config.data_parallel 2 --predict_batch_size 2"
    words = started(call("msrun_launcher.sh", order, 2, cwd=tmp_path))[1][1]
    assert words[:3] == ["-m", "mindformers_codellama.cli.main", "run"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "1, 2, 6 or 9 arguments are needed, 0 were given"),
        (["x.py", 2, 8118], "1, 2, 6 or 9 arguments are needed, 3 were given"),
        (["x.py", "two"], "WORKER_NUM is a whole number of at least 1, got 'two'"),
        (["x.py", 2, 8118, "logs", "maybe", 60], "JOIN is True or False, got 'maybe'"),
        (["x.py", 3, 2, "127.0.0.1", 8118, 0, "logs", "True", 60], "LOCAL_WORKER (2) must divide WORKER_NUM (3)"),
        (["x.py", 4, 2, "127.0.0.1", 8118, 2, "logs", "True", 60], "NODE_RANK 2: there are 2 machines, counted from 0"),
        (["x.py 'open"], "EXECUTE_ORDER cannot be read"),
        ([""], "EXECUTE_ORDER is empty"),
    ],
)
def test_msrun_launcher_shows_its_usage_and_what_was_wrong(words, message, tmp_path):
    done = call("msrun_launcher.sh", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "bash msrun_launcher.sh EXECUTE_ORDER [WORKER_NUM]" in done.stderr


def test_msrun_launcher_in_the_background_can_be_stopped(tmp_path):
    (tmp_path / "x.py").write_text("import os, time\nopen(os.environ['RANK_ID'], 'w').write(str(os.getpid()))\ntime.sleep(600)")
    port = free_ports(1)[0]
    done = call("msrun_launcher.sh", "x.py", 2, port, "logs", "False", 60, cwd=tmp_path, flags="")
    assert done.returncode == 0, done.stderr
    launcher = int(re.search(r"process (\d+)", done.stdout)[1])
    ranks = [int(wait_for(tmp_path / str(rank))) for rank in range(2)]
    assert all(map(alive, ranks))
    os.kill(launcher, signal.SIGTERM)
    until = time.monotonic() + 20
    while any(map(alive, [launcher, *ranks])) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, [launcher, *ranks]))
    assert "stopped." in (tmp_path / "logs/launch.log").read_text()


def test_msrun_launcher_in_the_background_tells_what_is_wrong_at_once(tmp_path):
    done = call("msrun_launcher.sh", "no_such_program", 2, cwd=tmp_path, flags="")
    assert done.returncode == 2
    assert "is neither a codellama command nor a program" in done.stderr
    assert not list(tmp_path.iterdir())


def wait_for(path):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize("script", ["run_distribute.sh", "run_predict.sh", "msrun_launcher.sh"])
def test_scripts_explain_themselves(script):
    done = call(script, "--help")
    assert done.returncode == 0
    assert f"bash {script}" in done.stdout
    assert "CODELLAMA_LAUNCH_FLAGS" in done.stdout
