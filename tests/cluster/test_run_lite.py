"""scripts/run_lite.sh and run_infer_main.py on one, two and four ranks: the text of `codellama predict`, and what must not happen."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import free_port

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.config.read import read_run
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.model.initial import initial_value

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "lite_fake"
TINY = (ROOT / "configs/codellama/predict_codellama_tiny.yaml").read_text(encoding="utf-8")
ONE = TINY.replace("num_layers: 4", "num_layers: 1").replace("n_kv_heads: 2", "n_kv_heads: 4").replace("num_heads: 6", "num_heads: 8")
PROMPT = "def bubble_sort(arr):\\n"
LENGTH = "60"
CODELLAMA = (sys.executable, "-m", "mindformers_codellama.cli.main")


def run(folder, *words, code=0, **env):
    """Output and errors of a command that ends with `code`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MS_", "RANK", "DEVICE_ID"))}
    environment = {**inherited, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run([*map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout[-1500:]}\n{done.stderr[-4000:]}"
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the exports `out1`, `out2` and `out4`, and what `codellama predict` says."""
    folder = tmp_path_factory.mktemp("lite")
    (folder / "one.yaml").write_text(ONE.replace("hidden_size: 192", "hidden_size: 128"), encoding="utf-8")
    config = read_run(folder / "one.yaml").model.config
    assert config.num_kv_heads == 4, "four ranks share four key/value heads"
    values = ((name, initial_value(name, shape, 7, std=0.08)) for name, shape in parameter_shapes(config).items())
    write_ckpt(folder / "weights.ckpt", values)
    said, _ = run(
        folder, *CODELLAMA, "predict", "one.yaml", PROMPT, "--load-checkpoint", "weights.ckpt", "--max-length", LENGTH, "--no-stream"
    )
    (folder / "said.txt").write_text(said)
    for ranks in (1, 2, 4):
        export = ("run", "--config", "one.yaml", "--load_checkpoint", "weights.ckpt", "--output_dir", f"out{ranks}", "--run_mode", "export")
        parallel = ("--use_parallel", "True", "--parallel_config.model_parallel", ranks) if ranks > 1 else ()
        before = ("launch", "--ranks", ranks, "--master", f"127.0.0.1:{free_port()}", "--") if ranks > 1 else ()
        run(folder, *CODELLAMA, *before, *export, *parallel)
    return folder


def lite(folder, export, *flags, code=0, **env):
    env.setdefault("CODELLAMA_LAUNCH_FLAGS", f"--master 127.0.0.1:{free_port()}")
    return run(folder, "bash", ROOT / "scripts/run_lite.sh", folder / export, "--max_length", LENGTH, *flags, code=code, **env)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_rank_says_what_predict_says(place, tmp_path, ranks):
    wanted = (place / "said.txt").read_text()
    shown, _ = lite(place, f"out{ranks}", "--predict_data", PROMPT, "--generated_time", 2)
    assert shown.startswith("".join(f"run model {rank} on rank:{rank},device {rank}...\n" for rank in range(ranks)))
    assert shown.count(wanted) == 2
    for rank in range(ranks):
        log = (place / f"rank_{rank}.log").read_text(errors="replace")
        # stdout and stderr come through two pipes: a line of figures may stand between two lines of an answer
        assert "".join(line for line in log.splitlines(True) if "new tokens in" not in line).count(wanted) == 2


def test_devices_count_from_the_first_one(place):
    shown, _ = lite(place, "out1", START_DEVICE_ID="3")
    assert "run model 0 on rank:0,device 3...\n" in shown


def test_a_rank_that_fails_fails_the_job_and_names_its_file(place, tmp_path):
    subprocess.run(["cp", "-r", str(place / "out2"), str(tmp_path / "out2")], check=True)
    damaged = next((tmp_path / "out2/mindir_full_checkpoint").glob("rank_1_variables/*"))
    damaged.chmod(0o600)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    began = time.monotonic()
    _, errors = lite(tmp_path, "out2", code=3)
    assert time.monotonic() - began < 120, "the other rank does not wait for the one that failed"
    assert str(damaged.relative_to(tmp_path)) in errors + (tmp_path / "rank_1.log").read_text(errors="replace")
    assert "rank 1" in errors


def test_ranks_that_a_shell_starts_find_each_other(place):
    script = f"""
    for i in 0 1; do
    {sys.executable} {ROOT}/tools/run_infer_main.py --device_id $i --rank_id $i --add_special_tokens True --distributed True \\
        --prefill_model_path out2/mindir_full_checkpoint/rank_${{i}}_graph.mindir --max_length {LENGTH} \\
        --increment_model_path out2/mindir_inc_checkpoint/rank_${{i}}_graph.mindir --predict_data "{PROMPT}" > bare_$i.log 2>&1 &
    done
    for job in $(jobs -p); do wait $job || exit 1; done
    """
    run(place, "bash", "-c", script)
    for rank in (0, 1):
        assert (place / f"bare_{rank}.log").read_text(errors="replace").count((place / "said.txt").read_text()) == 1


def test_ranks_with_different_prompts_are_refused(place):
    script = f"""
    for i in 0 1; do
    {sys.executable} {ROOT}/tools/run_infer_main.py --model_dir out2 --rank_id $i --distributed True \\
        --predict_data "prompt $i" > differ_$i.log 2>&1 &
    done
    for job in $(jobs -p); do wait $job; echo ended $?; done
    """
    shown, _ = run(place, "bash", "-c", script)
    assert shown == "ended 2\nended 2\n"
    assert "--predict_data: is 'prompt 0' here and 'prompt 1' on rank 1" in (place / "differ_0.log").read_text(errors="replace")


def test_graphs_for_two_ranks_in_a_job_of_one_are_refused(place):
    words = ("--ranks", 1, "--log-dir", "logs1", "--", "infer", "--model_dir", "out2", "--distributed", "True", "--predict_data", "x")
    _, errors = run(place, *CODELLAMA, "launch", *words, code=9)
    assert "is of 2 ranks, the job has 1" in errors


def test_ctrl_c_leaves_no_process(place):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CODELLAMA_TEST_MARK": str(place)}
    environment["CODELLAMA_LAUNCH_FLAGS"] = f"--master 127.0.0.1:{free_port()}"
    words = ["bash", str(ROOT / "scripts/run_lite.sh"), "out2", "--generated_time", "100000", "--predict_data", PROMPT]
    process = subprocess.Popen(words, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        said = (place / "said.txt").read_text().encode()[:40]
        seen = b""
        while said not in seen:
            seen += os.read(process.stdout.fileno(), 65536) or pytest.fail(f"ended early: {seen[-2000:]}")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    needle = f"CODELLAMA_TEST_MARK={place}".encode()
    left = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal() and needle in _environment(entry)]
    assert left == []


def _environment(entry):
    try:
        return (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def test_lite_ranks_meet_by_the_rank_table_of_lite_ini(tmp_path):
    """Two ranks of toy graphs with the stand-in for MindSpore Lite: HCCL's part is not there, all calls are."""
    sys.path.insert(0, str(ROOT / "tests/unit/mindir"))
    from lite_case import rank_table, write_export

    write_export(tmp_path / "toy", ranks=2, vocab=2048)
    rank_table(tmp_path / "table.json", 2, first_device=2)
    (tmp_path / "lite.ini").write_text("[ascend_context]\nprovider=ge\nrank_table_file=table.json\n")
    flags = ("--engine", "lite", "--config_path", "lite.ini", "--model_name", "codellama_tiny", "--predict_data", PROMPT)
    found = dict(START_DEVICE_ID="2", PYTHONPATH=str(FAKE), CODELLAMA_LAUNCH_FLAGS="--server-ip 127.0.0.1")
    lite(tmp_path, "toy", *flags, **found)
    texts = [(tmp_path / f"rank_{rank}.log").read_text(errors="replace") for rank in (0, 1)]
    answers = [re.sub(r"\d+ prompt tokens, .*\n?", "", text[text.index("def bubble_sort(arr):\n") :]).rstrip("\n") for text in texts]
    assert len(answers[0]) > 100
    assert answers[0] == answers[1]
