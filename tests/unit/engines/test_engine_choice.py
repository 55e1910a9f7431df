"""The engine a configuration names is the one that runs: nothing falls from one to the other, from any command."""

import importlib.metadata
import sys

import pytest

from mindformers_codellama.cli.main import main
from mindformers_codellama.config.read import read_run
from mindformers_codellama.engines import mindformers as theirs
from mindformers_codellama.engines.choose import open_engine, run_with_engine
from mindformers_codellama.engines.protocol import Report
from mindformers_codellama.errors import ConfigError, EnvironmentFault, TrainingError

COMMANDS = {
    "train": ["train", "FILE"],
    "finetune": ["finetune", "FILE"],
    "evaluate": ["evaluate", "FILE"],
    "predict": ["predict", "FILE", "def f():"],
    "run train": ["run", "--config", "FILE", "--run_mode", "train"],
    "run finetune": ["run", "--config", "FILE", "--run_mode", "finetune"],
    "run eval": ["run", "--config", "FILE", "--run_mode", "eval"],
    "run predict": ["run", "--config", "FILE", "--run_mode", "predict", "--predict_data", "def f():"],
}
ACTION = {"evaluate": "evaluate", "run eval": "evaluate", "predict": "predict", "run predict": "predict"}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(engine):
        text = f"engine: {engine}\noutput_dir: out\nload_checkpoint: w.ckpt\ntrainer: {{model_name: codellama_tiny}}\n"
        text += "context: {device_target: CPU}\nmodel: {model_config: {vocab_size: 2048, hidden_size: 32, num_layers: 1, num_heads: 2,"
        text += " seq_length: 16, param_init_type: float32, compute_dtype: float32}}\nrunner_config: {sink_mode: False}\n"
        text += "train_dataset: {data_loader: {dataset_dir: d.mindrecord}}\neval_dataset: {data_loader: {dataset_dir: e.mindrecord}}\n"
        (tmp_path / "run.yaml").write_text(text)
        return str(tmp_path / "run.yaml")

    return write


class Told(Exception):
    """The engine that was called."""


@pytest.fixture
def traps(monkeypatch):
    """Both engines raise their name when they are asked for anything."""
    import mindformers_codellama.pipelines.evaluate_packed as evaluate
    import mindformers_codellama.pipelines.open_model as open_model
    import mindformers_codellama.train.run as train

    def native(*args, **kwargs):
        raise Told("native")

    def vendor(action):
        def called(self, *args, **kwargs):
            raise Told(f"mindformers {action}")

        return called

    monkeypatch.setattr(train, "train", native)
    monkeypatch.setattr(evaluate, "evaluate_weights", native)
    monkeypatch.setattr(open_model, "open_source", native)
    for action in ("train", "evaluate", "predict"):
        monkeypatch.setattr(theirs.MindFormersEngine, action, vendor(action))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("engine", ["native", "mindformers"])
def test_every_command_runs_the_engine_the_file_names_and_no_other(config, traps, command, engine):
    words = [config(engine) if word == "FILE" else word for word in COMMANDS[command]]
    with pytest.raises(Told) as told:
        main(words)
    assert str(told.value) == ("native" if engine == "native" else f"mindformers {ACTION.get(command, 'train')}")


@pytest.mark.parametrize("command", COMMANDS)
def test_without_mindformers_every_command_says_so_and_nothing_is_computed(config, monkeypatch, capsys, command):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(theirs, "version", absent)
    path = config("mindformers")
    assert main([path if word == "FILE" else word for word in COMMANDS[command]]) == EnvironmentFault.exit_code
    error = capsys.readouterr().err
    assert "engine: mindformers needs mindformers 1.9.*, which is not installed. Fix: pip install" in error
    assert 'pip install "mindformers_codellama[mindformers]"' in error
    assert "Traceback" not in error


def test_another_version_is_named_with_the_one_that_is_needed(monkeypatch):
    installed = {"mindformers": "1.9.0", "mindspore": "2.10.0"}
    monkeypatch.setattr(theirs, "version", installed.__getitem__)
    with pytest.raises(EnvironmentFault, match=r"needs mindspore 2\.9\.\*, but 2\.10\.0 is installed"):
        theirs.require_mindformers()
    installed |= {"mindformers": "1.0.2", "mindspore": "2.9.0"}
    with pytest.raises(EnvironmentFault, match=r"needs mindformers 1\.9\.\*, but 1\.0\.2 is installed"):
        theirs.require_mindformers()
    installed["mindformers"] = "1.9.0"
    theirs.require_mindformers()


def test_the_native_functions_refuse_a_run_for_another_engine_and_the_other_way_round(config):
    from mindformers_codellama.pipelines.open_model import source_of_run
    from mindformers_codellama.train.run import train

    elsewhere = read_run(config("mindformers"))
    for native in (train, source_of_run):
        with pytest.raises(ConfigError, match="engine: is mindformers, but this was about to run with native"):
            native(elsewhere)
    with pytest.raises(ConfigError, match="engine: is native, but this was about to run with mindformers"):
        theirs.MindFormersEngine().open(read_run(config("native")))
    assert "mindformers" not in sys.modules


def test_chat_and_a_dry_run_are_of_the_native_engine(config, capsys):
    path = config("mindformers")
    assert main(["train", path, "--dry-run"]) == 2
    assert "--dry-run: is of the native engine; engine is mindformers" in capsys.readouterr().err
    assert main(["chat", path]) == 2
    assert "engine: is mindformers, but this was about to run with native" in capsys.readouterr().err


def test_options_of_our_own_generation_are_refused_for_another_engine(config, traps, capsys):
    assert main(["predict", config("mindformers"), "def f():", "--top-k", "3", "--stop", "x"]) == 2
    assert "--stop, --top-k: is of the native engine; engine is mindformers" in capsys.readouterr().err


def test_the_report_is_printed_for_people_and_as_json(config, monkeypatch, capsys):
    report = Report(engine="mindformers", action="eval", lines=("loss 1.0000",), numbers={"loss": 1.0, "perplexity": 2.7})
    monkeypatch.setattr(theirs.MindFormersEngine, "evaluate", lambda self, run: report)
    path = config("mindformers")
    assert main(["evaluate", path]) == 0
    assert capsys.readouterr().out == "loss 1.0000\n"
    assert main(["evaluate", path, "--json"]) == 0
    assert capsys.readouterr().out.startswith('{"engine": "mindformers", "action": "eval", "loss": 1.0')


def test_a_fault_inside_mindformers_is_one_line_with_the_way_to_more(config, monkeypatch, capsys):
    def stops(self, run):
        with theirs.told("training", TrainingError, run):
            raise RuntimeError(
                "------\n- Kernel select failed:\n------\nno such kernel\n---\n- C++ Call Stack: (For framework developers)\nx.cc:3"
            )

    monkeypatch.setattr(theirs.MindFormersEngine, "train", stops)
    assert main(["train", config("mindformers")]) == TrainingError.exit_code
    error = capsys.readouterr().err
    assert "MindFormers: training stopped with RuntimeError: - Kernel select failed: no such kernel Fix: CODELLAMA_TRACEBACK=1" in error
    assert "x.cc" not in error


def test_engines_are_opened_by_name_alone(config):
    assert [open_engine(name).name for name in ("native", "mindformers")] == ["native", "mindformers"]
    with pytest.raises(ConfigError, match=r"engine: got 'torch'. Fix: one of native, mindformers"):
        open_engine("torch")
    for mode, message in (
        ("predict", "there is nothing to predict"),
        ("export", "export is not run by an engine"),
    ):
        run = read_run(config("native"), overrides=[f"run_mode={mode}"])
        with pytest.raises(ConfigError, match=message):
            run_with_engine(run)
