"""Generation on 2 and 4 ranks: the tokens of one process, through the decoder, the command and MindFormers' script."""

import json
from pathlib import Path

import pytest
from ranks import RankRun, run_ranks

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.cli.main import main
from mindformers_codellama.config.read import read_run
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.model.initial import initial_value

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("parallel_predict_program.py")
YAML = ROOT / "configs/codellama/predict_codellama_tiny.yaml"
PROMPTS = ["def add(a, b):", "import os", "x = [1, 2"]


@pytest.mark.parametrize("ranks", [2, 4])
def test_cut_models_choose_the_tokens_of_a_whole_one(tmp_path, ranks):
    run = run_ranks([str(PROGRAM), str(ranks)], ranks, tmp_path).check()
    tokens = [[line for line in log.splitlines() if line.startswith("TOKENS")] for log in run.logs]
    assert len(tokens[0]) == 8
    assert all(own == tokens[0] for own in tokens)
    greedy, drawn = (json.loads(line.partition(" ")[2]) for line in tokens[0][:2])
    assert greedy != drawn


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of the tiny model whose answers vary."""
    path = tmp_path_factory.mktemp("weights") / "weights.ckpt"
    shapes = parameter_shapes(read_run(YAML).model.config)
    write_ckpt(path, ((name, initial_value(name, shape, 7, std=0.08)) for name, shape in shapes.items()))
    return path


def run_words(words: list[str], ranks: int, folder: Path) -> RankRun:
    """`codellama words` as ranks that work in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    code = f"import os, sys; os.chdir({str(folder)!r}); from mindformers_codellama.cli.main import main; sys.exit(main({words!r}))"
    return run_ranks(["-c", code], ranks, folder)


def degrees(data: int, model: int) -> list[str]:
    """Options that ask for a layout."""
    settings = {
        "use_parallel": True,
        "parallel_config.data_parallel": data,
        "parallel_config.model_parallel": model,
        "parallel_config.vocab_emb_dp": False,
    }
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


@pytest.mark.parametrize(("data", "model"), [(1, 2), (2, 1)])
def test_predict_gives_the_same_answers_and_rank_0_alone_shows_them(tmp_path, weights, capsys, data, model):
    words = ["predict", str(YAML), "--load-checkpoint", str(weights), "--max-new-tokens", "12", "--json", *PROMPTS]
    assert main([*words, "--output", str(tmp_path / "one.txt")]) == 0
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    run = run_words([*words, "--output", "several.txt", *degrees(data, model)], 2, tmp_path / "several").check()
    found = [json.loads(line) for line in run.logs[0].splitlines() if line.startswith("{")]
    assert found == expected
    assert not any(line.startswith("{") for line in run.logs[1].splitlines())
    assert (tmp_path / "several/several.txt").read_bytes() == (tmp_path / "one.txt").read_bytes()


def test_run_mode_predict_writes_the_result_file_once(tmp_path, weights):
    words = ["run", "--config", str(YAML), "--run_mode", "predict", "--load_checkpoint", str(weights), "--predict_data", PROMPTS[0]]
    options = ["use_parallel=True", "parallel_config.model_parallel=2", "model.model_config.max_decode_length=24"]
    run = run_words([*words, "--options", *options], 2, tmp_path).check()
    assert [path.name for path in tmp_path.glob("text_generation_result*")] == ["text_generation_result.txt"]
    assert [log.count(PROMPTS[0]) for log in run.logs] == [1, 0]


def test_mindformers_script_runs_on_two_ranks(tmp_path, weights):
    yaml = tmp_path / "two.yaml"
    text = YAML.read_text(encoding="utf-8").replace("use_parallel: False", "use_parallel: True")
    text = text.replace("model_parallel: 1", "model_parallel: 2").replace("max_decode_length: 256", "max_decode_length: 30")
    yaml.write_text(text, encoding="utf-8")
    single = tmp_path / "one.yaml"
    single.write_text(text.replace("use_parallel: True", "use_parallel: False"), encoding="utf-8")
    script = str(ROOT / "scripts/predict_custom.py")
    options = ["--model_type", "codellama_tiny", "--checkpoint_path", str(weights), "--seq_length", "256", "--yaml_file"]
    run = run_ranks([script, *options, str(yaml)], 2, tmp_path / "two").check()
    alone = run_ranks([script, *options, str(single)], 1, tmp_path / "one").check()
    answers = [[line for line in log.splitlines() if "sort(arr)" in line] for log in (*run.logs, *alone.logs)]
    assert len(answers[0]) == 2
    assert answers[0] == answers[1] == answers[2]


def test_an_error_all_ranks_have_is_told_once(tmp_path, weights):
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(weights.read_bytes()[:-1000])
    run = run_words(["predict", str(YAML), "--load-checkpoint", str(broken), *degrees(1, 2), PROMPTS[0]], 2, tmp_path)
    assert run.codes == [3, 3]
    assert [log.count("codellama: error:") for log in run.logs] == [1, 0]


def test_a_layout_of_another_size_than_the_job_is_refused(tmp_path, weights):
    run = run_words(["predict", str(YAML), "--load-checkpoint", str(weights), *degrees(2, 2), PROMPTS[0]], 2, tmp_path)
    assert run.codes == [9, 9]
    assert "layout 2x2x1 needs 4 ranks, the job has 2" in run.logs[0]
