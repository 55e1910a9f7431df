"""`codellama run` and run_mindformer.py: flags onto keys, and where each run_mode goes."""

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mindformers_codellama.cli import run as run_command
from mindformers_codellama.cli.main import main

PROJECT = Path(__file__).resolve().parents[3]
TINY = str(PROJECT / "configs/codellama/predict_codellama_tiny.yaml")


@pytest.fixture
def started(monkeypatch):
    """Runs that would be started, in order."""
    runs: list = []
    module = SimpleNamespace(run_config=lambda run: runs.append(run))
    monkeypatch.setattr(run_command, "import_module", lambda name: SimpleNamespace(**vars(module), name=name))
    return runs


def test_flags_options_and_dotted_keys_reach_the_configuration(started):
    words = "--seed 3 --use_parallel=False --batch_size 2 --epochs 4 --mode 1 --predict_batch_size 2 --load_checkpoint a=b".split()
    words += ["--options", "optimizer.beta1=0.8", "optimizer.eps=1e-7", "--lr_schedule.learning_rate", "1e-4", "--output_dir=/tmp/x"]
    assert main(["run", "--config", TINY, *words]) == 0
    run = started[0]
    assert (run.seed, run.runner_config.batch_size, run.model.batch_size, run.runner_config.epochs) == (3, 2, 2, 4)
    assert (run.context.mode, run.predict_batch_size, run.load_checkpoint, run.output_dir) == (1, 2, "a=b", "/tmp/x")
    assert (run.optimizer.beta1, run.optimizer.eps, run.lr_schedule.learning_rate) == (0.8, 1e-7, 1e-4)


def test_a_single_prompt_has_its_literal_newlines_decoded(started):
    main(["run", "--config", TINY, "--predict_data", r"def f():\n"])
    main(["run", "--config", TINY, "--predict_data", r"a\n", "b: [c"])
    assert started[0].input_data == ("def f():\n",)
    assert started[1].input_data == (r"a\n", "b: [c"), "several are taken as they stand"


@pytest.mark.parametrize("mode", ["train", "finetune", "eval", "predict", "export"])
def test_each_run_mode_goes_to_its_command(started, mode):
    assert main(["run", "--config", TINY, "--run_mode", mode]) == 0
    assert started[0].run_mode == mode


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--a.b.c", "1"], "codellama: error: --set a.b.c: unknown key."),
        (["--seed", "x"], "codellama: error: --set seed: got 'x' (a text). Fix: a whole number."),
        (["--optimizer.eps"], "codellama: error: --optimizer.eps: has no value. Fix: write --optimizer.eps VALUE."),
        (["stray"], "codellama: error: stray: is not a flag."),
    ],
)
def test_wrong_flags_are_refused_in_one_line(started, capsys, words, message):
    assert main(["run", "--config", TINY, *words]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert not started


def test_a_config_is_found_from_the_project_as_well(started, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--config", "configs/codellama/predict_codellama_tiny.yaml"]) == 0


def test_run_mindformer_py_is_this_command():
    done = subprocess.run([sys.executable, PROJECT / "run_mindformer.py", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--strategy_load_checkpoint" in done.stdout


def test_prediction_for_several_ranks_is_refused_before_anything_is_built(capsys):
    path = str(PROJECT / "configs/codellama/predict_codellama_34b_910b.yaml")
    assert main(["predict", path, "def f():"]) == 9
    assert "use_parallel: layout 1x8x1 needs 8 ranks, and this process is none. Fix: start it with" in capsys.readouterr().err


def test_a_conversation_on_several_ranks_is_refused(capsys):
    path = str(PROJECT / "configs/codellama/predict_codellama_34b_910b.yaml")
    assert main(["chat", path]) == 2
    assert "use_parallel: asks for 8 ranks (layout 1x8x1), but chat needs one process." in capsys.readouterr().err


def test_infilling_on_several_ranks_is_refused_and_no_other_command_named(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text("x")
    path = str(PROJECT / "configs/codellama/predict_codellama_70b_910b.yaml")
    assert main(["infill", path, "a.py:1:1"]) == 2
    told = capsys.readouterr().err
    assert told.endswith("(layout 1x8x1), but infill needs one process. Fix: --set use_parallel=False.\n")


def test_standard_input_is_of_one_process(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("def f():"))
    path = str(PROJECT / "configs/codellama/predict_codellama_34b_910b.yaml")
    assert main(["predict", path, "-"]) == 2
    assert "a prompt from standard input needs one process. Fix: --set use_parallel=False, or give" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("pipeline_stage=2", "parallel_config.pipeline_stage: got 2, but "),
        ("model_parallel=3", "parallel_config.model_parallel: got 3, must divide n_kv_heads (8)"),
    ],
)
def test_degrees_generation_cannot_have_are_refused(capsys, settings, message):
    path = str(PROJECT / "configs/codellama/predict_codellama_34b_910b.yaml")
    assert main(["predict", path, "def f():", "--set", f"parallel_config.{settings}"]) == 2
    assert message in capsys.readouterr().err
