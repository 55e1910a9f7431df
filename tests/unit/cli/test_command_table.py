"""The command table, errors without traceback, and exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_codellama import __version__
from mindformers_codellama.cli import main as cli
from mindformers_codellama.errors import CheckpointError

PROJECT = Path(__file__).resolve().parents[3]
TINY = str(PROJECT / "configs/codellama/predict_codellama_tiny.yaml")


def test_every_command_has_arguments_and_run():
    for name in cli.command_names():
        module = __import__(cli.COMMANDS[name][0], fromlist=["run"])
        assert callable(module.add_arguments), name
        assert callable(module.run), name


@pytest.mark.parametrize("name", cli.command_names())
def test_help_of_every_command_shows_examples_with_its_name(name, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"codellama {name}" in text.split("options:")[-1], "an example in the epilog"


def test_help_starts_no_mindspore_and_lists_the_commands():
    code = "import sys, mindformers_codellama.cli.main as m; m.build_parser([]).print_help(); sys.exit('mindspore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "explain a configuration" in done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"codellama {__version__}\n"


def test_no_words_print_help(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check", TINY, "--jsn"], "--jsn: is not an option of check. Fix: did you mean --json? All: codellama check --help."),
        (["check", TINY, "--nonsense"], "--nonsense: is not an option of check. Fix: see codellama check --help."),
        (["check", TINY, "-x"], "-x: is not an option of check."),
        (["export", "c", "--confg", "x"], "--confg: is not an option of export. Fix: see codellama export --help."),
        (["predict", "m", "a", "--max-lenght", "5"], "--max-lenght: is not an option of predict. Fix: did you mean --max-length?"),
        (["infer", "--model_dri=x"], "--model_dri: is not an option of infer. Fix: did you mean --model_dir?"),
        (["rank-table", "merge", "x", "--outptu", "y"], "--outptu: is not an option of rank-table merge. Fix: did you mean --output?"),
        (["run", "--confg", "x"], "--confg: is not an option of run. Fix: did you mean --config?"),
        (["doctor", "a"], "a: is one word too many. Fix: see codellama doctor --help."),
        (["predcit", "x"], "predcit: is not a command of codellama. Fix: did you mean predict?"),
        (["nonsense"], "nonsense: is not a command of codellama. Fix: one of check, plan, "),
    ],
)
def test_unknown_words_are_refused_with_the_nearest_known_ones(words, says, capsys):
    assert cli.main(words) == 2
    assert f"codellama: error: {says}" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted({*cli.command_names()} - {"run"}))  # run takes any --a.b.c
def test_a_misspelled_flag_of_every_command_is_told_before_anything_runs(name, capsys, monkeypatch):
    monkeypatch.setattr(cli, "start_logging", lambda: pytest.fail("it ran"))
    assert cli.main([name, "--hlep"]) == 2
    assert "--hlep: is not an option of " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (
            CheckpointError("x.ckpt", "is damaged.", fix="convert it again."),
            3,
            "codellama: error: x.ckpt: is damaged. Fix: convert it again.\n",
        ),
        (KeyboardInterrupt(), 130, "codellama: stopped.\n"),
        (OSError(28, "No space left on device", "run/log.txt"), 8, "codellama: error: run/log.txt: No space left on device.\n"),
    ],
)
def test_errors_of_a_person_end_without_traceback(monkeypatch, capsys, fault, code, words):
    def fail(_arguments):
        raise fault

    monkeypatch.delenv("CODELLAMA_TRACEBACK", raising=False)
    monkeypatch.setattr("mindformers_codellama.cli.check.run", fail)
    assert cli.main(["check", TINY]) == code
    assert capsys.readouterr().err == words


@pytest.mark.parametrize("words", ["completion bash", f"check {TINY}"], ids=["long", "short"])
def test_a_reader_that_goes_away_is_told_by_the_exit_code_alone(words):
    command = f"{sys.executable} -m mindformers_codellama.cli.main {words} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)  # noqa: S607
    assert (done.stderr, done.returncode) == ("", 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_one_line():
    command = f"{sys.executable} -m mindformers_codellama.cli.main check {TINY} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)  # noqa: S607
    assert (done.stderr, done.returncode) == ("codellama: error: output: No space left on device.\n", 8)


def test_a_stop_while_a_command_is_imported_is_quiet(monkeypatch, capsys):
    def stopped(_name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", stopped)
    assert cli.main(["check", TINY]) == 130
    assert capsys.readouterr().err == "codellama: stopped.\n"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.command_names())
    assert "--json" in text
