"""What `codellama launch` starts, what it refuses before any rank is started, and how training is resumed."""

import os
import sys
from pathlib import Path

import pytest

from mindformers_codellama.cli.launch_command import understand
from mindformers_codellama.cli.main import main
from mindformers_codellama.cluster.environment import Address, Job, LocalRank

PROJECT = Path(__file__).resolve().parents[3]
TRAIN = str(PROJECT / "configs/codellama/pretrain_codellama_tiny.yaml")
PREDICT = str(PROJECT / "configs/codellama/predict_codellama_tiny.yaml")
ASCEND = str(PROJECT / "configs/codellama/predict_codellama_34b_910b.yaml")
OURS = (sys.executable, "-m", "mindformers_codellama.cli.main")
TABLE = """{"version": "1.0", "server_count": "1", "server_list": [{"server_id": "127.0.0.1", "device": [
  {"device_id": "0", "device_ip": "192.0.2.1", "rank_id": "0"}, {"device_id": "1", "device_ip": "192.0.2.2", "rank_id": "1"}],
  "host_nic_ip": "reserve"}], "status": "completed"}"""


@pytest.fixture(autouse=True)
def in_a_folder_with_programs(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("programs")
    for name in ("x.py", "p.py", "predict_custom.py"):
        (folder / name).touch()
    monkeypatch.chdir(folder)


@pytest.fixture
def table(tmp_path):
    (tmp_path / "table.json").write_text(TABLE)
    return str(tmp_path / "table.json")


def launch(capsys, *words):
    """(exit code, stdout, stderr)."""
    try:
        code = main(["launch", *words])
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize("prefix", [[], ["codellama"]])
def test_a_command_of_this_program_runs_in_this_environment(prefix):
    command = understand([*prefix, "train", TRAIN, "--set", "seed=7"])
    assert command.words == (*OURS, "train", TRAIN, "--set", "seed=7")
    assert (command.config.seed, command.device_target) == (7, "CPU")


@pytest.mark.parametrize("words", [["run_mindformer.py"], ["python", "run_mindformer.py"], ["python3", str(PROJECT / "run_mindformer.py")]])
def test_mindformers_entry_point_is_the_command_run(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = understand([*words, "--config", PREDICT, "--use_parallel", "True"])
    assert command.words == (*OURS, "run", "--config", PREDICT, "--use_parallel", "True")
    assert command.config.use_parallel is True


def test_python_is_this_python(tmp_path):
    assert understand(["python", "x.py", "--seed", "1"]).words == (sys.executable, "x.py", "--seed", "1")
    assert understand(["./x.py"]).words == (sys.executable, "./x.py")
    assert understand(["bash", "-c", "true"]).words[1:] == ("-c", "true")


def test_the_device_of_a_script_is_that_of_the_configuration_it_is_given():
    assert understand(["python", "predict_custom.py", "--yaml_file", PREDICT]).device_target == "CPU"
    assert understand(["python", "predict_custom.py", f"--config={ASCEND}"]).device_target == "Ascend"
    assert understand(["python", "predict_custom.py"]).device_target == ""


def test_ascend_gets_the_table_and_cpu_its_mapping(capsys, table):
    _, out, _ = launch(capsys, "--rank-table", table, "--dry-run", "--", "python", "p.py", "--yaml_file", ASCEND)
    ranks = [line for line in out.splitlines() if line.startswith("rank ") and "RANK_ID" in line]
    assert [f"RANK_TABLE_FILE={table} RANK_ID={rank} " in line for rank, line in enumerate(ranks)] == [True, True]
    assert "MS_" not in out
    _, out, _ = launch(capsys, "--rank-table", table, "--dry-run", "--", "python", "p.py", "--yaml_file", PREDICT)
    assert "RANK_TABLE_FILE" not in out
    assert out.count("MS_SCHED_HOST=127.0.0.1 MS_SCHED_PORT=") == 3, "two ranks and the scheduler"
    _, out, _ = launch(
        capsys, "--rank-table", table, "--device-target", "Ascend", "--dry-run", "--", "python", "p.py", "--yaml_file", PREDICT
    )
    assert out.count("RANK_TABLE_FILE") == 2


def test_a_dry_run_starts_nothing(capsys, tmp_path, monkeypatch):
    (tmp_path / "x.py").touch()
    monkeypatch.chdir(tmp_path)
    code, out, _ = launch(capsys, "--ranks", "2", "--dry-run", "--", "python", "x.py")
    assert code == 0
    assert out.endswith("dry run: nothing was started.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.py"]


def test_logs_go_where_mindformers_says(capsys, monkeypatch):
    monkeypatch.setenv("LOG_MF_PATH", "/elsewhere/log")
    assert "> /elsewhere/log/rank_1/mindformer.log" in launch(capsys, "--ranks", "2", "--dry-run", "--", "python", "x.py")[1]
    monkeypatch.delenv("LOG_MF_PATH")
    assert "> output/log/rank_1/mindformer.log" in launch(capsys, "--ranks", "2", "--dry-run", "--", "python", "x.py")[1]
    out = launch(capsys, "--ranks", "2", "--log-dir", ".", "--log-file", "mindformers_{rank}.log", "--dry-run", "--", "python", "x.py")[1]
    assert "> mindformers_1.log" in out
    assert "> scheduler.log" in out


TWO = ("--ranks", "2", "--dry-run", "--")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*TWO,), "COMMAND: there is nothing to start."),
        ((*TWO, "no-such-program-here"), "is neither a codellama command nor a program. Fix: one of run, train"),
        ((*TWO, "launch", "x"), "launch: is not for several ranks."),
        ((*TWO, "rank-table", "check"), "rank-table: is not for several ranks."),
        ((*TWO, "eval", "humaneval", "m", "--data", "d"), "eval humaneval: is not for several ranks."),
        ((*TWO, "eval", "mmlu", "m", "--data", "d", "--output", "o"), "--world-size: is missing: it says how the ranks share the model."),
        ((*TWO, "eval", "mmlu", PREDICT, "--data", "d", "--output", "o"), "--world-size: is missing"),
        ((*TWO, "run", "--config", "none.yaml"), "none.yaml"),
        ((*TWO, "run"), "the following arguments are required: --config"),
        ((*TWO, "train", TRAIN, "--set", "sead=1"), "sead: unknown key."),
        ((*TWO, "train", TRAIN), "use_parallel: is False, but 2 ranks are to be started."),
        (
            (*TWO, "run", "--config", TRAIN, "--use_parallel", "True", "--parallel_config.data_parallel", "3"),
            "is 3 * 1 * 1 = 3, but there are 2 ranks.",
        ),
        (("--ranks", "0", "--", "python", "x.py"), "argument --ranks: must be at least 1"),
        (("--ranks", "two", "--", "python", "x.py"), "'two' is not a whole number"),
        (("--devices", "[8,0]", "--", "python", "x.py"), "--devices: got '[8,0]'."),
        (("--ranks", "2", "--log-file", "all.log", "--", "python", "x.py"), "--log-file: got 'all.log': every rank needs its own."),
        (("--", "python", "x.py"), "ranks: nothing says how many there are."),
    ],
)
def test_what_every_rank_would_find_wrong_is_told_once_and_nothing_starts(capsys, tmp_path, monkeypatch, words, message):
    (tmp_path / "x.py").touch()
    monkeypatch.chdir(tmp_path)
    code, out, errors = launch(capsys, *words)
    assert code == 2
    assert errors.count(message) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.py"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"rank_id": "1"', '"rank_id": "0"'), "rank 0 is given twice"),
        (("}]", "}"), "table.json"),
        (("127.0.0.1", "no-such-host.invalid"), "the host no-such-host.invalid does not resolve"),
        (("127.0.0.1", "192.0.2.77"), "192.0.2.77 is none of this machine's addresses (127.0.0.1"),
    ],
)
def test_a_rank_table_that_cannot_be_used(capsys, tmp_path, change, message):
    (tmp_path / "table.json").write_text(TABLE.replace(*change))
    code, _, errors = launch(capsys, "--rank-table", str(tmp_path / "table.json"), "--", "python", "x.py")
    assert code == 9
    assert message in errors


def test_launch_needs_no_mindspore():
    import subprocess

    code = (
        "import sys; from mindformers_codellama.cli.main import main\n"
        f"assert main(['launch', '--ranks', '1', '--dry-run', '--', 'run', '--config', {PREDICT!r}]) == 0\n"
        "sys.exit('mindspore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def part(*ranks, of=2):
    """This machine's part of a job."""
    return Job(ranks=of, local=tuple(LocalRank(rank, rank) for rank in ranks), master=Address("127.0.0.1", 8118))


def saved(folder, *names, age=0.0):
    for name in names:
        path = folder / "checkpoint" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        os.utime(path, (1e9 - age, 1e9 - age))


def test_a_restart_resumes_once_every_rank_has_saved_a_step(tmp_path):
    out = f"output_dir={tmp_path}"
    run = understand(["run", "--config", TRAIN, "--options", out])
    train = understand(["train", TRAIN, "--set", out])
    again = understand(["train", TRAIN, "--set", out, "--resume"])
    job = part(0, 1)
    assert run.resumed(1e9, job) == run.words
    saved(tmp_path, "rank_1/t_rank_1-1_4.ckpt", "rank_0/t_rank_0-1_8.ckpt")
    assert run.resumed(1e9, job) == run.words, "no step of both"
    saved(tmp_path, "rank_0/t_rank_0-1_4.ckpt")
    assert run.resumed(1e9, job) == (*run.words, "--resume_training", "True", "--load_checkpoint", str(tmp_path))
    assert train.resumed(1e9, job) == (*train.words, "--resume")
    assert again.resumed(1e9, job) == again.words
    resumed = understand(run.resumed(1e9, job)[3:]).config
    assert (resumed.resume_training, resumed.load_checkpoint) == (True, str(tmp_path))


def test_on_a_disk_of_its_own_a_machine_looks_at_its_own_ranks(tmp_path):
    command = understand(["run", "--config", TRAIN, "--options", f"output_dir={tmp_path}"])
    saved(tmp_path, "rank_2/t_rank_2-1_4.ckpt", "rank_3/t_rank_3-1_4.ckpt")
    assert command.resumed(1e9, part(2, 3, of=4)) != command.words
    saved(tmp_path, "rank_0/t_rank_0-1_4.ckpt")
    assert command.resumed(1e9, part(2, 3, of=4)) == command.words, "the others can be seen, and one is missing"


@pytest.mark.parametrize(
    ("name", "age"),
    [("rank_0/t_rank_0-1_1.ckpt", 1), ("rank_0/.t_rank_0-1_1.ckpt.tmp", 0), ("../checkpoint_network/rank_0/t_rank_0-network.ckpt", 0)],
)
def test_an_older_or_unfinished_checkpoint_is_not_resumed(tmp_path, name, age):
    saved(tmp_path, name, age=age)
    command = understand(["run", "--config", TRAIN, "--options", f"output_dir={tmp_path}"])
    assert command.resumed(1e9, part(0, of=1)) == command.words


def test_what_does_not_train_is_run_again_as_it_was(tmp_path):
    saved(tmp_path, "rank_0/t_rank_0-1_1.ckpt")
    command = understand(["run", "--config", PREDICT, "--output_dir", str(tmp_path)])
    assert command.resumed(1e9, part(0, of=1)) == command.words
    assert understand(["python", "x.py"]).resumed(1e9, part(0, of=1)) == (sys.executable, "x.py")
