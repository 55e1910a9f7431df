"""MindFormers' two predict_custom.py scripts, and this project's own examples, run as a user runs them."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
import pytest

from mindformers_codellama.checkpoint.ckpt_format import write_ckpt
from mindformers_codellama.checkpoint.load import load_into
from mindformers_codellama.config.read import read_run
from mindformers_codellama.layout.parameters import parameter_shapes
from mindformers_codellama.model.initial import initial_value
from mindformers_codellama.model.llama import LlamaNetwork
from mindformers_codellama.runtime.context import enter_context
from mindformers_codellama.text.auto import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
YAML = ROOT / "configs/codellama/predict_codellama_tiny.yaml"
SEEDS = ROOT.parent / "shared" / "seeds"
PROMPTS = ["def bubble_sort(arr):\n", "def quick_sort(arr):\n"]


class Prepared(NamedTuple):
    """A model on disk and what it must answer."""

    yaml: Path
    checkpoint: Path
    greedy: list[np.ndarray]
    """The first 40 ids of prompt and answer, for each of PROMPTS."""


def prepare(folder: Path, yaml: Path) -> Prepared:
    """Random weights, large enough that answers are not one token repeated by rounding."""
    path = folder / "weights.ckpt"
    shapes = parameter_shapes(read_run(yaml).model.config)
    write_ckpt(path, ((name, initial_value(name, shape, 7, std=0.08)) for name, shape in shapes.items()))
    rows = expected_ids(yaml, path, 40)
    assert all(len(set(row)) > 15 for row in rows)  # an answer that repeats itself would hide a shifted position
    return Prepared(yaml, path, rows)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """codellama_tiny."""
    return prepare(tmp_path_factory.mktemp("tiny"), YAML)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """One layer and short answers, to compile and run fast."""
    folder = tmp_path_factory.mktemp("shallow")
    text = (
        YAML.read_text(encoding="utf-8")
        .replace("max_decode_length: 256", "max_decode_length: 40")
        .replace("num_layers: 4", "num_layers: 1")
    )
    (folder / "predict.yaml").write_text(text, encoding="utf-8")
    return prepare(folder, folder / "predict.yaml")


def script_texts() -> list[str]:
    """The seed's scripts with every import taken from this package, otherwise unchanged."""
    for page in sorted(SEEDS.glob("002_*.md")) if SEEDS.is_dir() else []:
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        scripts = [block for block in blocks if block.startswith("# predict_custom.py")]
        return [
            re.sub(r"^from mindformers(\.\w+)* import", "from mindformers_codellama import", text, flags=re.MULTILINE) for text in scripts
        ]
    return []


def run_alone(script: Path, *arguments: str) -> str:
    """In a process of its own; what it prints."""
    done = subprocess.run([sys.executable, str(script), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process, which has MindSpore loaded already; what it prints."""

    def run_here(script: Path, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        monkeypatch.chdir(ROOT)
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run_here


def expected_ids(yaml: Path, checkpoint: Path, length: int) -> list[np.ndarray]:
    """Greedy answers by reading the whole row anew for every token with the training network: another path to the logits."""
    run_config = read_run(yaml)
    enter_context(run_config.context)
    network = LlamaNetwork(run_config.model.config)
    network.set_train(False)
    load_into(network, checkpoint)
    tokenizer = AutoTokenizer.from_pretrained("codellama_tiny")
    rows: list[np.ndarray] = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        while len(ids) < length and ids[-1] != 2:
            padded = np.zeros((1, 64), np.int32)
            padded[0, : len(ids)] = ids
            ids.append(int(network(ms.Tensor(padded)).asnumpy()[0, len(ids) - 1].argmax()))
        rows.append(np.asarray(ids))
    return rows


needs_seed = pytest.mark.skipif(len(script_texts()) != 2, reason="the pages with MindFormers' scripts are not on this machine")


@needs_seed
@pytest.mark.parametrize("number", [0, 1], ids=["generate", "pipeline"])
def test_mindformers_script_runs_with_every_name_from_this_package(tmp_path, run, tiny, number):
    script = tmp_path / "predict_custom.py"
    script.write_text(script_texts()[number], encoding="utf-8")
    start = run_alone if number == 0 else run
    out = start(script, "--model_type", "codellama_tiny", "--yaml_file", str(tiny.yaml), "--checkpoint_path", str(tiny.checkpoint))
    tokenizer = AutoTokenizer.from_pretrained("codellama_tiny")
    for row in tiny.greedy:
        if number == 0:
            assert tokenizer.decode(row) in out
        else:
            # Printed as a dictionary, so line ends are written out.
            text = tokenizer.decode(row, skip_special_tokens=True)
            assert f"{{'text_generation_text': [{repr(text)[:-1]}" in out


@needs_seed
def test_mindformers_script_runs_on_a_tokenizer_directory_without_a_cache(tmp_path, run, shallow):
    script = tmp_path / "predict_custom.py"
    script.write_text(script_texts()[0], encoding="utf-8")
    AutoTokenizer.from_pretrained("codellama_tiny").save_pretrained(tmp_path / "words")
    out = run(
        *(script, "--model_type", str(tmp_path / "words"), "--yaml_file", str(shallow.yaml)),
        *("--checkpoint_path", str(shallow.checkpoint), "--use_past", "False", "--seq_length", "300"),
    )
    tokenizer = AutoTokenizer.from_pretrained("codellama_tiny")
    assert all(tokenizer.decode(row) in out for row in shallow.greedy)


def test_own_generate_example_prints_the_greedy_answers(run, shallow):
    script = ROOT / "scripts/examples/predict_generate.py"
    out = run(script, "--yaml_file", str(shallow.yaml), "--checkpoint_path", str(shallow.checkpoint), "--max_new_tokens", "33")
    tokenizer = AutoTokenizer.from_pretrained("codellama_tiny")
    assert all(tokenizer.decode(row, skip_special_tokens=True) in out for row in shallow.greedy)


def test_own_pipeline_example_answers_three_prompts_two_at_a_time_and_streams(run, shallow):
    script = ROOT / "scripts/examples/predict_pipeline.py"
    out = run(script, "--model", str(shallow.yaml), "--checkpoint_path", str(shallow.checkpoint), "--max_new_tokens", "33")
    tokenizer = AutoTokenizer.from_pretrained("codellama_tiny")
    lines = [line for line in out.splitlines() if line.startswith("{'text_generation_text'")]
    assert len(lines) == 3
    for line, row in zip(lines, shallow.greedy, strict=False):
        assert repr(tokenizer.decode(row, skip_special_tokens=True))[:-1] in line
    assert len(out.split("== as a stream")[1].split("\n", 1)[1]) > 10
